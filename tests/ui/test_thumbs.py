from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from PySide6.QtCore import QRectF, Qt
from PySide6.QtGui import QColor, QPainter, QPixmap

from workbench.core.values import ImageRef
from workbench.data.read import image_ref
from workbench.ui.widgets.thumbs import Thumbs, draw_thumb


def drawn(pixmap: QPixmap | None, scale: float = 1.0, *, failed: bool = False) -> QPixmap:
    made = QPixmap(round(60 * scale), round(60 * scale))
    made.setDevicePixelRatio(scale)
    made.fill(QColor("#00ff00"))
    painter = QPainter(made)
    painter.setBrush(Qt.GlobalColor.blue)  # what is left on the brush must not show
    draw_thumb(painter, QRectF(5, 5, 50, 50), pixmap, failed=failed)
    painter.end()
    return made


def plain(colour: str) -> QPixmap:
    made = QPixmap(50, 50)
    made.fill(QColor(colour))
    return made


@pytest.mark.parametrize("scale", [1.0, 1.5, 2.0])
def test_a_thumbnail_has_round_corners_and_its_own_picture(themed, scale):
    first, second = plain("#ff0000"), plain("#ffff00")
    for pixmap, colour in ((first, "#ff0000"), (second, "#ffff00"), (first, "#ff0000")):
        seen = drawn(pixmap, scale).toImage()
        assert seen.pixelColor(round(30 * scale), round(30 * scale)) == QColor(colour)
        assert seen.pixelColor(round(5 * scale), round(5 * scale)) == QColor("#00ff00")
        assert seen.pixelColor(round(2 * scale), round(30 * scale)) == QColor("#00ff00")
        edge = seen.pixelColor(round(5 * scale), round(30 * scale))
        assert edge.red() < QColor(colour).red(), "there is no edge"


def test_what_is_not_there_yet_and_what_never_will_be_look_different(themed):
    waiting, failed = drawn(None).toImage(), drawn(None, failed=True).toImage()
    assert waiting.pixelColor(30, 30) != failed.pixelColor(30, 30)
    for seen in (waiting, failed):
        assert seen.pixelColor(30, 30) not in (QColor("#00ff00"), QColor("#0000ff"))
        assert seen.pixelColor(5, 5) == QColor("#00ff00")


def test_many_thumbnails_arrive_each_once(themed, qtbot, tmp_path: Path):
    images = []
    for n in range(30):
        Image.new("RGB", (20, 20), (8 * n, 0, 0)).save(tmp_path / f"{n}.png")
        images.append(image_ref(str(tmp_path / f"{n}.png")))
    (tmp_path / "broken.png").write_bytes((tmp_path / "0.png").read_bytes()[:40])
    broken = ImageRef(str(tmp_path / "broken.png"), "", "f" * 64, 40, 20, 20)
    thumbs = Thumbs()
    told: list[str] = []
    thumbs.ready.connect(told.append)
    for image in (*images, broken):
        assert thumbs.pixmap(image, 16) is None
    qtbot.waitUntil(lambda: len(told) == 31)
    assert sorted(told) == sorted(i.sha256 for i in (*images, broken))
    for n, image in enumerate(images):
        found = thumbs.pixmap(image, 16)
        assert found is not None
        assert abs(found.toImage().pixelColor(8, 8).red() - 8 * n) <= 1
    assert thumbs.failed(broken)
    assert thumbs.pixmap(broken, 16) is None
    thumbs.close()
