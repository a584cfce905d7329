"""The design's colours, light and dark; plain data that imports nothing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tokens:
    """One theme's colours as ``#RRGGBB``; ``classes`` are the eight hues of classes and curves."""

    window: str
    surface: str
    raised: str
    border: str
    border_strong: str
    text: str
    secondary: str
    disabled: str
    accent: str
    accent_text: str
    accent_soft: str
    control_border: str
    hover: str
    accent_hover: str
    accent_pressed: str
    good: str
    warn: str
    bad: str
    good_soft: str
    warn_soft: str
    bad_soft: str
    hairline: str
    plot_background: str
    grid: str
    classes: tuple[str, ...]


TOKENS: dict[str, Tokens] = {
    "light": Tokens(
        window="#F6F7F9",
        surface="#FFFFFF",
        raised="#FFFFFF",
        border="#DCE0E6",
        border_strong="#B8C0CC",
        text="#1A1F26",
        secondary="#56606D",
        disabled="#9AA3AF",
        accent="#2A5BD7",
        accent_text="#FFFFFF",
        accent_soft="#E8EEFC",
        control_border="#868F9C",
        hover="#EFF1F5",
        accent_hover="#1F4CBD",
        accent_pressed="#173C99",
        good="#177545",
        warn="#8A5A00",
        bad="#B42318",
        good_soft="#E6F4EC",
        warn_soft="#FBF1DE",
        bad_soft="#FCEBE9",
        hairline="#E9ECF1",
        plot_background="#FFFFFF",
        grid="#E9ECF1",
        classes=("#0072B2", "#B87400", "#00855F", "#B8568F", "#2C8CC4", "#C24E00", "#8F8400", "#5B4FB5"),
    ),
    "dark": Tokens(
        window="#15181D",
        surface="#1C2027",
        raised="#242A33",
        border="#333A45",
        border_strong="#4B5563",
        text="#E7ECF2",
        secondary="#A3ADBA",
        disabled="#66707D",
        accent="#7DA2FF",
        accent_text="#0F1420",
        accent_soft="#243252",
        control_border="#737E8D",
        hover="#262C35",
        accent_hover="#9AB7FF",
        accent_pressed="#5F86EA",
        good="#4CC38A",
        warn="#F0B45B",
        bad="#FF8A80",
        good_soft="#1B3328",
        warn_soft="#382D1A",
        bad_soft="#3D2322",
        hairline="#2C333D",
        plot_background="#1C2027",
        grid="#2C333D",
        classes=("#3D9BE0", "#E69F00", "#1DB98C", "#E39AC5", "#7CC8F2", "#F07F35", "#F0E442", "#A79BF5"),
    ),
}
