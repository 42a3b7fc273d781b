"""Makes the page's section of nearest neighbours."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from transfer.report.collected import ExperimentReport
from transfer.report.figures.gallery import definition
from transfer.report.markup import Markup, join, named, section, tag
from transfer.report.neighbours import NEAREST, SIDE, Neighbours, Pool, Trunk, chance, view

logger = logging.getLogger(__name__)

GAP = 6  # between neighbours, in the units of a picture


def alike(
    report: ExperimentReport, images: Pool | None, trunks: Sequence[Trunk], problems: Mapping[str, str]
) -> Markup | None:
    """Shows a few images and their nearest neighbours by each trunk, with those of its random twin beside them.

    Args:
        problems: trunk -> why it cannot be shown.
    """
    lines: list[Markup | None] = [
        tag("p", f"{name}: not shown, {why}.", class_="lead") for name, why in problems.items()
    ]
    if images is not None and trunks:
        try:
            lines += [_lead(images), *(_score(report, trunk, images) for trunk in trunks)]
            lines.append(_Pictures(images).queries(report, trunks))
        except (ValueError, OSError) as error:
            logger.warning("no nearest neighbours in the report: %s", error)
            lines = [tag("p", f"Not shown: {error}", class_="lead")]
    return section("neighbours", "Nearest neighbours", *lines) if lines else None


def _lead(images: Pool) -> Markup:
    shown = min(NEAREST, len(images.paths) - 1)
    words = (
        f"At the left an image, beside it the {shown} of {images.words} that are nearest by cosine of the frozen "
        f"trunk's pooled features, at {SIDE} pixels. Random: the same network as it is initialised. "
    )
    folders = "The images are evenly spaced over folders; outlined: from the image's own folder."
    return tag("p", words + (folders if any(images.labels) else "The images are evenly spaced."), class_="lead")


def _score(report: ExperimentReport, trunk: Trunk, images: Pool) -> Markup | None:
    if trunk.trained.same is None or trunk.random.same is None:
        return None
    words = (
        f": {trunk.trained.same:.0f}% of all images' neighbours are from the image's own folder, random "
        f"{trunk.random.same:.0f}%, by chance {chance(images.labels):.0f}%."
    )
    return tag("p", _label(report, trunk), words, class_="score")


def _label(report: ExperimentReport, trunk: Trunk) -> Markup:
    row = next((i for _, i, row in report.cells() if trunk.name in (row.pretrain, row.slug)), None)
    return tag("span", trunk.name) if row is None else named(row, trunk.name)


class _Pictures:
    """Holds thumbnails, each of which is in the page once."""

    def __init__(self, images: Pool):
        self.images = images
        self.known: dict[int, str] = {}
        self.new: list[Markup] = []

    def queries(self, report: ExperimentReport, trunks: Sequence[Trunk]) -> Markup:
        items = []
        twins: dict[Neighbours, str] = {}
        for trunk in trunks:
            twins.setdefault(trunk.random, f"random (of {trunk.name})" if twins else "random")
        for n, query in enumerate(self.images.queries[: 6 if len(trunks) < 3 else 4]):
            strips = []
            for trunk in trunks:
                strips += [tag("p", _label(report, trunk)), self._strip(query, trunk.name, trunk.trained.nearest[n])]
            for twin, words in twins.items():
                strips += [tag("p", words), self._strip(query, words, twin.nearest[n])]
            name = self.images.labels[query].replace("_", " ") or self.images.paths[query].name
            caption = tag("p", name, class_="image-id")
            left = tag("div", self._square([query], f"Image {self._name(query)}", []), caption)
            items.append(tag("li", left, tag("div", *strips, class_="strips"), class_="query"))
        return join([*self.new, tag("ul", *items, class_="gallery alike")])

    def _name(self, i: int) -> str:
        path = self.images.paths[i]
        return f"{self.images.labels[i]}/{path.name}" if self.images.labels[i] else path.name

    def _strip(self, query: int, words: str, found: Sequence[tuple[int, float]]) -> Markup:
        label = self.images.labels[query]
        right = [k for k, (i, _) in enumerate(found) if label and self.images.labels[i] == label]
        said = ", ".join(f"{self._name(i)} {cosine:.2f}" for i, cosine in found)
        return self._square([i for i, _ in found], f"Nearest to {self._name(query)} by {words}: {said}", right)

    def _square(self, which: Sequence[int], alt: str, outlined: Sequence[int]) -> Markup:
        parts = [tag("use", href=f"#{self._pixels(i)}", x=k * (SIDE + GAP)) for k, i in enumerate(which)]
        parts += [
            tag("rect", x=k * (SIDE + GAP) + 2, y=2, width=SIDE - 4, height=SIDE - 4, class_="same") for k in outlined
        ]
        width = len(which) * (SIDE + GAP) - GAP
        return tag("svg", *parts, viewBox=f"0 0 {width} {SIDE}", role="img", aria_label=alt, class_="strip")

    def _pixels(self, i: int) -> str:
        if i not in self.known:
            self.known[i] = f"alike-{len(self.known)}"
            self.new.append(definition(view(self.images.paths[i]), self.known[i], SIDE, SIDE))
        return self.known[i]
