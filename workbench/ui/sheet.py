"""The application's style sheet, generated from the tokens; only ``theme.apply`` uses it.

Widgets are told apart by dynamic properties, never by a style sheet of their own: ``kind`` and ``small`` of buttons,
``role`` and ``tone`` of labels, ``role`` of frames, ``wrong`` of inputs.
"""

from __future__ import annotations

from string import Template

from workbench.ui.tokens import Tokens

_SHEET = Template("""
* { outline: none; }
QWidget { color: $text; font-size: 13px; }
QMainWindow, QDialog, QWidget[role="window"] { background: $window; }
QWidget:disabled { color: $disabled; }

QLabel { background: transparent; }
QLabel[role="title"] { font-size: 20px; font-weight: 600; }
QLabel[role="section"] { font-size: 15px; font-weight: 600; }
QLabel[role="figure"] { font-size: 32px; font-weight: 600; }
QLabel[role="secondary"] { color: $secondary; }
QLabel[role="caption"] { font-size: 12px; color: $secondary; }
QLabel[role="label"] { font-size: 12px; font-weight: 500; color: $secondary; }
QLabel[role="name"] { font-weight: 500; }
QLabel[role="strong"] { font-weight: 600; }
QLabel[role="mono"] { font-family: "DejaVu Sans Mono", "Menlo", "Consolas", monospace; font-size: 12px; }
QLabel[tone="secondary"] { color: $secondary; }
QLabel[tone="accent"] { color: $accent; }
QLabel[tone="good"] { color: $good; }
QLabel[tone="warn"] { color: $warn; }
QLabel[tone="bad"] { color: $bad; }
QLabel:disabled { color: $disabled; }

QFrame[role="panel"] { background: $surface; border: 1px solid $border; border-radius: 8px; }
QFrame[role="card"] { background: $raised; border: 1px solid $border; border-radius: 8px; }
QFrame[role="card"][selected="true"] { background: $accent_soft; border-color: $accent; }
QFrame[role="card"][hover="true"] { border-color: $border_strong; }
QFrame[role="card"][selected="true"][hover="true"] { border-color: $accent; }
QFrame[role="drop"] { background: transparent; border: none; border-radius: 8px; }
QFrame[role="drop"][filled="true"] { background: $surface; }
QFrame[role="drop"][over="true"] { background: $accent_soft; }
QFrame[role="card"][over="true"] { background: $accent_soft; border: 2px solid $accent; }
QFrame[role="strip"] { border-radius: 6px; border: 1px solid $accent; background: $accent_soft; }
QFrame[role="strip"][tone="warn"] { border-color: $warn; background: $warn_soft; }
QFrame[role="strip"][tone="bad"] { border-color: $bad; background: $bad_soft; }
QFrame[role="strip"][tone="good"] { border-color: $good; background: $good_soft; }
QFrame[role="line"] { background: $hairline; border: none; }
QFrame[role="edge"] { background: $border; border: none; }
QFrame[role="code"] { background: $window; border: 1px solid $border; border-radius: 6px; }
QFrame[role="bar"] { background: $window; border: none; }

QPushButton, QToolButton {
  min-height: 30px; padding: 0 12px; border: 1px solid $border_strong; border-radius: 6px;
  background: $surface; color: $text; font-weight: 500;
}
QPushButton:hover, QToolButton:hover { background: $hover; border-color: $control_border; }
QPushButton:pressed, QToolButton:pressed, QPushButton:open { background: $hairline; border-color: $control_border; }
QPushButton:checked, QToolButton:checked { background: $accent_soft; border-color: $accent; color: $accent; }
QPushButton:disabled, QToolButton:disabled { background: transparent; border-color: $border; color: $disabled; }
QPushButton[small="true"], QToolButton[small="true"] { min-height: 26px; padding: 0 10px; }
QPushButton::menu-indicator, QToolButton::menu-indicator { image: none; width: 0; }

QPushButton[kind="primary"] { background: $accent; border-color: $accent; color: $accent_text; font-weight: 600; }
QPushButton[kind="primary"]:hover { background: $accent_hover; border-color: $accent_hover; }
QPushButton[kind="primary"]:pressed { background: $accent_pressed; border-color: $accent_pressed; }
QPushButton[kind="primary"]:disabled { background: $hairline; border-color: $hairline; color: $disabled; }

QPushButton[kind="quiet"], QToolButton[kind="quiet"] { background: transparent; border-color: transparent; }
QPushButton[kind="quiet"]:hover, QToolButton[kind="quiet"]:hover { background: $hover; border-color: $hover; }
QPushButton[kind="quiet"]:pressed, QToolButton[kind="quiet"]:pressed, QPushButton[kind="quiet"]:open {
  background: $hairline; border-color: $hairline;
}
QPushButton[kind="quiet"]:disabled, QToolButton[kind="quiet"]:disabled { border-color: transparent; }

QPushButton[kind="danger"] { border-color: $bad; color: $bad; }
QPushButton[kind="danger"]:hover { background: $bad_soft; border-color: $bad; }
QPushButton[kind="danger"]:pressed { background: $bad_soft; border-color: $bad; }
QPushButton[kind="danger"]:disabled { border-color: $border; color: $disabled; }

QPushButton[kind="link"] {
  background: transparent; border: none; color: $accent; min-height: 20px; padding: 0; font-weight: 500;
}
QPushButton[kind="link"]:hover { color: $accent_hover; text-decoration: underline; }
QPushButton[kind="link"]:disabled { color: $disabled; }

QPushButton[kind="icon"], QToolButton[kind="icon"] {
  background: transparent; border-color: transparent; padding: 0; min-width: 30px; max-width: 30px;
}
QPushButton[kind="icon"]:hover, QToolButton[kind="icon"]:hover { background: $hover; border-color: $hover; }
QPushButton[kind="icon"]:pressed, QToolButton[kind="icon"]:pressed { background: $hairline; border-color: $hairline; }
QPushButton[kind="icon"]:disabled { border-color: transparent; }
QPushButton[kind="icon"][small="true"], QToolButton[kind="icon"][small="true"] {
  min-width: 26px; max-width: 26px; padding: 0;
}
QPushButton[kind="iconbox"] { padding: 0; min-width: 30px; max-width: 30px; }

QPushButton[kind="key"] {
  min-height: 26px; min-width: 26px; max-width: 40px; padding: 0; font-weight: 600; background: $surface;
}

QPushButton[kind="segment"] {
  min-height: 26px; padding: 0 12px; border: 1px solid $border_strong; border-radius: 0; background: $surface;
  color: $secondary; font-weight: 500; border-left-width: 0;
}
QPushButton[kind="segment"][end="first"] {
  border-left-width: 1px; border-top-left-radius: 6px; border-bottom-left-radius: 6px;
}
QPushButton[kind="segment"][end="last"] { border-top-right-radius: 6px; border-bottom-right-radius: 6px; }
QPushButton[kind="segment"][end="only"] { border-left-width: 1px; border-radius: 6px; }
QPushButton[kind="segment"]:hover { background: $hover; color: $text; }
QPushButton[kind="segment"]:checked {
  background: $accent_soft; color: $accent; font-weight: 600; border-color: $border_strong;
}
QPushButton[kind="segment"]:disabled { color: $disabled; border-color: $border; }

QLineEdit, QSpinBox, QDoubleSpinBox, QComboBox, QPlainTextEdit, QTextEdit, QDateTimeEdit {
  background: $surface; border: 1px solid $control_border; border-radius: 6px; color: $text;
  selection-background-color: $accent; selection-color: $accent_text;
}
QLineEdit, QSpinBox, QDoubleSpinBox, QComboBox { min-height: 30px; padding: 0 11px; }
QPlainTextEdit, QTextEdit { padding: 6px 8px; }
QLineEdit[small="true"], QSpinBox[small="true"], QComboBox[small="true"], QDoubleSpinBox[small="true"] {
  min-height: 26px;
}
QLineEdit:hover, QSpinBox:hover, QDoubleSpinBox:hover, QComboBox:hover { border-color: $secondary; }
QLineEdit:disabled, QSpinBox:disabled, QDoubleSpinBox:disabled, QComboBox:disabled, QPlainTextEdit:disabled {
  background: transparent; border-color: $border; color: $disabled;
}
QLineEdit[wrong="true"], QSpinBox[wrong="true"], QDoubleSpinBox[wrong="true"], QComboBox[wrong="true"] {
  border-color: $bad;
}
QLineEdit[kind="bare"], QLineEdit[kind="bare"]:hover {
  background: transparent; border: none; padding: 0; min-height: 20px;
}

QAbstractSpinBox QLineEdit, QAbstractSpinBox QLineEdit:hover, QComboBox QLineEdit, QComboBox QLineEdit:hover {
  background: transparent; border: none; padding: 0; min-height: 0;
}
QSpinBox, QDoubleSpinBox { min-height: 27px; padding: 0 2px; }
QSpinBox[small="true"], QDoubleSpinBox[small="true"] { min-height: 23px; }
QComboBox { padding-right: 28px; }
QComboBox::drop-down { border: none; width: 32px; subcontrol-origin: border; subcontrol-position: right center; }
QComboBox::down-arrow { image: url("$down"); width: 16px; height: 16px; }
QComboBox::down-arrow:disabled { image: url("$down_off"); }
QComboBox QAbstractItemView {
  background: $raised; border: 1px solid $border_strong; padding: 4px; selection-background-color: $accent_soft;
  selection-color: $text;
}
QComboBox QAbstractItemView::item { min-height: 28px; padding: 0 8px; border-radius: 4px; }

QSpinBox::up-button, QDoubleSpinBox::up-button {
  subcontrol-origin: border; subcontrol-position: top right; width: 24px; border: none; margin: 3px 2px 0 0;
}
QSpinBox::down-button, QDoubleSpinBox::down-button {
  subcontrol-origin: border; subcontrol-position: bottom right; width: 24px; border: none; margin: 0 2px 3px 0;
}
QSpinBox::up-arrow, QDoubleSpinBox::up-arrow { image: url("$up"); width: 10px; height: 10px; }
QSpinBox::down-arrow, QDoubleSpinBox::down-arrow { image: url("$down"); width: 10px; height: 10px; }

QCheckBox, QRadioButton { spacing: 8px; min-height: 28px; background: transparent; }
QCheckBox::indicator, QGroupBox::indicator {
  width: 14px; height: 14px; border: 1px solid $control_border; border-radius: 4px; background: $surface;
}
QCheckBox::indicator:hover { border-color: $accent; }
QCheckBox::indicator:checked, QGroupBox::indicator:checked {
  background: $accent; border-color: $accent; image: url("$check");
}
QCheckBox::indicator:indeterminate { background: $accent; border-color: $accent; image: url("$dash"); }
QCheckBox::indicator:disabled { border-color: $border_strong; background: transparent; }
QCheckBox::indicator:checked:disabled {
  background: $border_strong; border-color: $border_strong; image: url("$check_off");
}
QRadioButton::indicator {
  width: 14px; height: 14px; border: 1px solid $control_border; border-radius: 8px; background: $surface;
}
QRadioButton::indicator:hover { border-color: $accent; }
QRadioButton::indicator:checked { border-color: $accent; image: url("$dot"); }
QRadioButton::indicator:disabled { border-color: $border_strong; background: transparent; }
QRadioButton::indicator:checked:disabled { image: url("$dot_off"); }

QSlider { min-height: 28px; background: transparent; }
QSlider::groove:horizontal { height: 4px; border-radius: 2px; background: $border_strong; }
QSlider::sub-page:horizontal { height: 4px; border-radius: 2px; background: $accent; }
QSlider::sub-page:horizontal:disabled { background: $disabled; }
QSlider::handle:horizontal {
  width: 12px; height: 12px; margin: -6px 0; border-radius: 8px; border: 2px solid $accent; background: $surface;
}
QSlider::handle:horizontal:hover { background: $accent_soft; }
QSlider::handle:horizontal:disabled { border-color: $disabled; }

QProgressBar { min-height: 6px; max-height: 6px; border: none; border-radius: 3px; background: $hairline; }
QProgressBar::chunk { border-radius: 3px; background: $accent; }

QMenu { background: $raised; border: 1px solid $border_strong; padding: 4px; }
QMenu::item {
  min-height: 20px; padding: 4px 28px 4px 10px; border-radius: 4px; background: transparent; color: $text;
}
QMenu::item:selected { background: $accent_soft; }
QMenu::item:disabled { color: $disabled; }
QMenu::icon { padding-left: 8px; }
QMenu::separator { height: 1px; background: $hairline; margin: 4px 6px; }
QMenu::right-arrow { image: url("$right"); width: 14px; height: 14px; }
QMenu::indicator { width: 16px; height: 16px; margin-left: 6px; }
QMenu::indicator:checked { image: url("$tick"); }

QToolTip { background: $text; color: $window; border: 1px solid $text; padding: 6px 8px; font-size: 13px; }

QScrollArea, QAbstractScrollArea { background: transparent; border: none; }
QScrollArea > QWidget > QWidget[role="content"] { background: transparent; }
QAbstractItemView {
  background: transparent; border: none; selection-background-color: $accent_soft; selection-color: $text;
  alternate-background-color: $window;
}
QHeaderView { background: transparent; border: none; }
QHeaderView::section {
  background: transparent; color: $secondary; font-size: 12px; font-weight: 500; border: none;
  border-bottom: 1px solid $hairline; padding: 0 8px; height: 32px;
}
QTableView { gridline-color: $hairline; }
QTableView::item:selected, QListView::item:selected, QTreeView::item:selected {
  background: $accent_soft; color: $text;
}
QTableCornerButton::section { background: transparent; border: none; }

QScrollBar:vertical { background: transparent; width: 12px; margin: 0; }
QScrollBar:horizontal { background: transparent; height: 12px; margin: 0; }
QScrollBar::handle:vertical { background: $border_strong; border-radius: 3px; min-height: 32px; margin: 3px; }
QScrollBar::handle:horizontal { background: $border_strong; border-radius: 3px; min-width: 32px; margin: 3px; }
QScrollBar::handle:hover { background: $control_border; }
QScrollBar::add-line, QScrollBar::sub-line { width: 0; height: 0; background: none; border: none; }
QScrollBar::add-page, QScrollBar::sub-page { background: none; }

QListWidget[role="pages"]::item { min-height: 28px; padding: 0 8px; border-radius: 4px; }

QSplitter::handle { background: transparent; }
QDialog QDialogButtonBox { button-layout: 0; }
QTextBrowser {
  background: $surface; border: 1px solid $border; border-radius: 8px; padding: 12px 16px; color: $text;
}
QFrame[role="code"] QTextBrowser { background: transparent; border: none; border-radius: 0; padding: 0; }
""")


def style_sheet(t: Tokens, images: dict[str, str]) -> str:
    """The whole style sheet of one theme.

    Args:
        t: the theme's colours.
        images: path of each tinted image by its use (``icons.sheet_images``).
    """
    colours = {name: getattr(t, name) for name in t.__slots__ if name != "classes"}
    return _SHEET.substitute(colours | images)
