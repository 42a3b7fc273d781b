"""Makes the page's sections that need the saved detections: test images, and precision over recall."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from transfer.evaluation.objects_found import objects
from transfer.evaluation.precision_recall import PrecisionRecall
from transfer.report.collected import ColumnReport
from transfer.report.disagreement import RULE, most
from transfer.report.evaluated import Evaluated, Found
from transfer.report.figures.classes import PRLine, precision_recall_chart
from transfer.report.figures.gallery import Gallery, choose
from transfer.report.markup import Markup, join, named, section, tag
from transfer.tasks.instances import INSTANCES

logger = logging.getLogger(__name__)

FEW = 24  # classes up to which each has a figure of its own
SIDE_BY_SIDE = 12  # up to which these stand beside that of the mean


def images(report: ColumnReport, sets: Sequence[Evaluated], count: int = 4) -> Markup | None:
    """Shows test images, evenly spaced ones, then disagreements, with detections of each row's first finished trial."""
    if not sets:
        return None
    data = sets[0]
    lead = (
        "Dashed: annotated. Solid: of each row's first trial, as many of its surest detections as there are objects; "
        "with a tick and a wide line those that find one (same class, IoU at least 0.5)."
    )
    try:
        keypoints = data.dataset.keypoints
        gallery = Gallery(data.names, keypoints.skeleton if keypoints else ())
        lead += " Rings: annotated keypoints. Dots and lines: those of each detection." if keypoints else ""
        groups = [_evenly(data, gallery, count), *_disagreements(report, data, gallery)]
    except (ValueError, OSError) as error:  # an image that is not here must not keep the report from being written
        return not_shown(error)
    return section("images", "Test images", tag("p", lead, class_="lead"), *groups)


def not_shown(error: Exception) -> Markup:
    """Makes the section that replaces the images of a data set that is not here."""
    logger.warning("no test images in the report: %s", error)
    return section("images", "Test images", tag("p", f"Not shown: {error}", class_="lead"))


def _evenly(data: Evaluated, gallery: Gallery, count: int) -> Markup:
    chosen = choose(data.records, count)
    items = [gallery.item(record, data.rows, f"image {record['image_id']}") for record in chosen]
    lead = f"Images of {data.dataset.name}, evenly spaced in its order and chosen without looking at results."
    return _group("Evenly spaced", lead, items, len(data.rows))


def _disagreements(report: ColumnReport, data: Evaluated, gallery: Gallery) -> list[Markup]:
    base = data.row(report.rows.index(report.baseline))
    others = [found for found in data.rows if found is not base]
    if base is None or not others:
        return []
    count = 4 if len(others) == 1 else 2 if len(others) <= 3 else 1
    groups: list[Markup] = []
    for other in others:
        for better, worse in ((other, base), (base, other)):
            items = [
                gallery.item(data.records[i], (base, other), _caption(data, i, base, other))
                for i in most(better.objects, worse.objects, count)
            ]
            title = join([named(better.colour, better.row), " finds more than ", named(worse.colour, worse.row)])
            lead = RULE if not groups else None
            if items:
                groups.append(_group(title, lead, items, 2))
            else:
                groups.append(tag("p", title, ": on no image.", class_="lead after"))
    return groups


def _caption(data: Evaluated, i: int, base: Found, other: Found) -> str:
    numbers = [f"{found.row} {found.objects[i]:.3g}" for found in (base, other)]
    record = data.records[i]
    return f"image {record['image_id']} · found of {len(objects(record))} objects: {', '.join(numbers)}"


def _group(title: object, lead: str | None, items: Sequence[Markup], rows: int) -> Markup:
    words = tag("p", lead, class_="lead") if lead else None
    listed = tag("ul", *items, class_="gallery", style=f"--rows: {rows}")
    return tag("div", tag("h3", title, class_="pair"), words, listed, class_="group")


def precision(report: ColumnReport, sets: Sequence[Evaluated]) -> Markup | None:
    """Shows precision over recall of each row's first finished trial: the mean, and each class if they are few."""
    parts: list[Markup] = []
    for n, data in enumerate(sets):
        found = [(row, row.curves) for row in data.rows if row.curves is not None]
        if found:
            parts += _figures(data, found, f"pr{n}")
    return section("precision", "Precision and recall", *parts) if parts else None


def _figures(data: Evaluated, found: Sequence[tuple[Found, PrecisionRecall]], prefix: str) -> list[Markup]:
    lines = [PRLine(row.colour, curves.mean()) for row, curves in found]
    said = "; ".join(f"{row.row}, seed {row.seed}: {curves.label} {curves.mean_score:.1f}" for row, curves in found)
    chart = precision_recall_chart(lines, f"Precision over recall on {data.dataset.name}, {said}.", prefix)
    legend = [
        tag("li", named(row.colour, row.row), tag("b", f"{curves.mean_score:.1f}"), tag("small", f"seed {row.seed}"))
        for row, curves in found
    ]
    caption = tag("figcaption", found[0][1].label, tag("ul", *legend, class_="scores"))
    alone = len(data.names) == 1
    whole = tag(
        "figure",
        tag("h3", data.names[0].replace("_", " ") if alone else "Mean over classes"),
        chart,
        caption,
        class_="card",
    )
    sampled = [(row, curves, curves.sampled()) for row, curves in found]
    drawn = () if alone else data.names  # the figure of the mean is that of the class
    names = [name for name in sorted(drawn) if any(name in curves for _, _, curves in sampled)]
    note = INSTANCES.protocol(data.dataset).note
    lead = (
        f"At IoU 0.5 on {data.dataset.name}, of each row's first trial; at each recall the best precision from there "
        f"on. The area under a curve is its {found[0][1].label}{f' ({note})' if note else ''}."
    )
    if len(names) > FEW:
        lead += f" Of {len(names)} classes only the mean is drawn."
    small = []
    for n, name in enumerate(names if len(names) <= FEW else ()):
        mine = [(row, curves.scores[name], of[name]) for row, curves, of in sampled if name in of]
        alt = f"{name}: " + "; ".join(f"{row.row} {score:.1f}" for row, score, _ in mine)
        chart = precision_recall_chart(
            [PRLine(row.colour, of) for row, _, of in mine], alt, f"{prefix}-{n}", small=True
        )
        scores = [named(row.colour, f"{score:.1f}") for row, score, _ in mine]
        small.append(
            tag("figure", tag("h4", name.replace("_", " ")), chart, tag("figcaption", *scores, class_="scores"))
        )
    classes = (
        tag("div", tag("h3", "Each class"), tag("div", *small, class_="small-charts"), class_="card") if small else None
    )
    layout = "precision" if 0 < len(small) <= SIDE_BY_SIDE else "stack"
    return [tag("p", lead, class_="lead"), tag("div", whole, classes, class_=layout)]
