"""The page's head, its table, and the figures that show what the table's numbers are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from transfer.report.collect import Curve, ExperimentReport, RowReport, metric_label
from transfer.report.figures import Dots, Line, curves, dots, near_enough, points
from transfer.report.markup import Markup, join, named, scroll, section, tag
from transfer.report.tables import GREEN, RULE, Cell, caption, cell, comparisons, signed, verdicts

MINUS = "\N{MINUS SIGN}"


def header(report: ExperimentReport, contents: Mapping[str, str]) -> Markup:
    """Title, what the page is, and links to its sections (id -> title)."""
    n, rows = len(report.seeds), len(report.rows)
    trials = f"{n} trial{'s' * (n != 1)} per row"
    left = len(report.unfinished)
    state = f"{rows - left} of {rows} rows complete." if left else "All rows are complete."
    links = [tag("li", tag("a", title, href=f"#{name}")) for name, title in contents.items()]
    return join(
        [
            tag("p", f"Transfer report · {report.runner} · {trials}", class_="kicker"),
            tag("h1", report.title),
            tag("p", state, class_="lede"),
            tag("nav", tag("ul", *links), aria_label="Sections"),
        ]
    )


def problems(report: ExperimentReport) -> Markup | None:
    """What a reader must know before reading any number."""
    lines = [
        f"{row.name}: {row.state}, so not averaged" for row in report.unfinished if len(row.results) < len(row.seeds)
    ]
    lines += [f"{row.name}: {problem}" for row in report.rows for problem in row.problems]
    return tag("div", tag("ul", *(tag("li", line) for line in lines)), class_="warning", role="note") if lines else None


def table(report: ExperimentReport) -> Markup:
    """The table as in the paper: rows by initialisation, metrics across; what is published in small print beneath.

    The roles repeat what the elements say, because narrow screens lay the cells out as a grid.
    """
    heads = [tag("th", metric_label(m), scope="col", class_="number", role="columnheader") for m in report.metrics]
    first = tag("th", "Initialisation", scope="col", role="columnheader")
    head = tag("thead", tag("tr", first, *heads, role="row"), role="rowgroup")
    body = []
    for i, row in enumerate(report.rows):
        name = tag("th", named(i, row.name), tag("small", _beneath(report, row)), scope="row", role="rowheader")
        body.append(tag("tr", name, *(_cell(report, row, m) for m in report.metrics), role="row"))
    lead = join([tag("p", line, class_="lead") for line in caption(report)])
    element = tag("table", head, tag("tbody", *body, role="rowgroup"), class_="summary", role="table")
    return section(
        "results", "Results", lead, tag("div", scroll(element, "Results"), class_="card"), _judgement(report)
    )


def _beneath(report: ExperimentReport, row: RowReport) -> str:
    alone = len(report.rows) == 1 or row is not report.baseline
    return row.state if alone else f"{row.state}; the baseline"


def _cell(report: ExperimentReport, row: RowReport, metric: str) -> Markup:
    c = cell(report, row, metric)
    if c.statistic is not None:
        mean: object = tag("span", f"{c.statistic.mean:.1f}", class_="mean")
        std = None if c.statistic.std is None else tag("span", f" ± {c.statistic.std:.1f}", class_="std")
        if c.gain is not None:
            better = "gain better" if round(c.gain, 1) >= GREEN else "gain"
            std = join([std, tag("span", f" ({signed(c.gain, MINUS)})", class_=better)])
    else:
        values = row.values(metric)
        mean, std = tag("span", "–", class_="mean"), None
        if values:
            std = tag("small", "so far " + ", ".join(f"{v:.1f}" for v in values))
    return tag("td", mean, std, *_small_print(c), class_="number", role="cell", data_label=metric_label(metric))


def _small_print(c: Cell) -> list[Markup]:
    lines = []
    if c.interval is not None:
        lines.append(tag("small", "95% {:.1f} to {:.1f}".format(*c.interval).replace("-", MINUS)))
    if c.published is not None:
        gap = "" if c.gap is None else f" ({signed(c.gap, MINUS)})"
        lines.append(tag("small", f"published {c.published:.1f}{gap}"))
    if c.verdict is not None:
        lines.append(tag("small", c.verdict.words, class_="outside" if c.verdict.outside else None))
    return lines


def _judgement(report: ExperimentReport) -> Markup | None:
    judged = verdicts(report)
    if not judged:
        return None
    within = sum(v.status == "within" for _, _, v in judged)
    counts = f"Within noise of the published number: {within} of {len(judged)}"
    return tag("p", f"{counts}, judged {RULE}.", class_="small after")


def versus(report: ExperimentReport) -> Markup | None:
    """Every row against the baseline: difference, its interval, Welch's t-test, effect size."""
    tested = comparisons(report)
    if not tested:
        return None
    heads = ("Initialisation", "Metric", "Difference", "95% interval", "p (Welch)", "Hedges' g", "")
    numbers = range(2, 6)
    head = [tag("th", text, scope="col", class_="number" if i in numbers else None) for i, text in enumerate(heads)]
    body = []
    for row, m, c in tested:
        p = "–" if c.p is None else "< 0.001" if c.p < 0.001 else f"{c.p:.3f}"
        bounds = f"{signed(c.low, MINUS)} to {signed(c.high, MINUS)}"
        effect = "–" if c.effect is None else f"{round(c.effect, 1) + 0.0:.1f}".replace("-", MINUS)
        words = (signed(c.difference, MINUS), bounds, p, effect)
        cells = [tag("td", word, class_="number") for word in words]
        name = named(report.rows.index(row), row.name)
        body.append(
            tag(
                "tr",
                tag("th", name, scope="row"),
                tag("td", metric_label(m)),
                *cells,
                tag("td", c.verdict, class_="whole"),
            )
        )
    lead = (
        f"Each row's mean minus that of '{report.baseline.name}'. Different: Welch's t-test at 5%, each comparison by "
        "itself. Hedges' g: the difference in standard deviations over trials."
    )
    element = tag("table", tag("thead", tag("tr", *head)), tag("tbody", *body))
    card = tag("div", scroll(element, "Differences from the baseline"), class_="card")
    return section("versus", "Against the baseline", tag("p", lead, class_="lead"), card)


def trials(report: ExperimentReport) -> Markup | None:
    """Every trial as a dot, per metric."""
    figures, says = [], ["Dot: one trial."]
    for n, m in enumerate(report.metrics):
        rows = [_dots(report, i, row, m) for i, row in enumerate(report.rows)]
        if any(r.values for r in rows):
            alt = f"{metric_label(m)} per trial. " + " ".join(map(_described, rows))
            figures.append(tag("figure", tag("h3", metric_label(m)), dots(rows, alt, f"dots{n}"), class_="card"))
            if len(near_enough(rows)) < len(rows):
                says.append("Triangle: far off the others' scale.")
    if not figures:
        return None
    says += ["Upright line: mean; band: ± one sample std; thin line: 95% interval."] * (len(report.seeds) > 1)
    says += ["Hollow diamond: published."] * report.has_published
    lead = tag("p", " ".join(dict.fromkeys([*says, "Scales differ between metrics."])), class_="lead")
    return section("trials", "Every trial", lead, tag("div", *figures, class_="charts"))


def _dots(report: ExperimentReport, i: int, row: RowReport, metric: str) -> Dots:
    c = cell(report, row, metric)
    s = c.statistic
    mean, std = (None, None) if s is None else (s.mean, s.std)
    label = row.state.split(", ")[0] if s is None else str(s)
    return Dots(row.name, i, row.values(metric), mean, std, c.published, label, c.interval)


def _described(row: Dots) -> str:
    values = ", ".join(f"{v:.1f}" for v in row.values) or "no trial"
    published = "" if row.published is None else f", published {row.published:.1f}"
    return f"{row.name}: {row.label} ({values}{published})."


def learning(report: ExperimentReport) -> Markup | None:
    """Curves of fine-tuning and of the experiment's own pre-trainings."""
    figures = [_fine_tuning(report)]
    for n, (name, title, what) in enumerate(
        (
            ("loss", "Pre-training: loss", "Contrastive loss"),
            ("acc1", "Pre-training: (K + 1)-way accuracy", "How often the positive key scores highest, percent"),
        )
    ):
        figures.append(_pretraining(report, name, title, what, f"pre{n}"))
    found = [figure for figure in figures if figure is not None]
    if not found:
        return None
    legend = [tag("li", named(i, row.name)) for i, row in enumerate(report.rows)]
    return section(
        "learning", "Learning curves", tag("ul", *legend, class_="legend"), tag("div", *found, class_="charts")
    )


def _fine_tuning(report: ExperimentReport) -> Markup | None:
    runs = [(i, row.name, curve) for i, row in enumerate(report.rows) for curve in row.curves.values()]
    return _figure(runs, "total_loss", "Fine-tuning: total loss", "One line per trial", "loss")


def _pretraining(report: ExperimentReport, name: str, title: str, what: str, prefix: str) -> Markup | None:
    owners = {row.pretrain: i for i, row in reversed(list(enumerate(report.rows))) if row.pretrain}  # its first row
    runs = [(owners[p.name], p.name, p.curve) for p in report.pretrainings if p.name in owners]
    return _figure(runs, name, title, what, prefix)


def _figure(runs: Sequence[tuple[int, str, Curve]], scalar: str, title: str, what: str, prefix: str) -> Markup | None:
    """`runs`: (row number, name, curve)."""
    lines, widths, ends = [], set(), []
    for colour, name, curve in runs:
        found, width = points(curve, scalar)
        if found:
            lines.append(Line(colour, found))
            widths.add(width)
            ends.append(f"{name} {found[0][1]:.2f} to {found[-1][1]:.2f}")
    if not lines:
        return None
    smooth = f"; each point is the mean of up to {max(widths)} logged values" if max(widths) > 1 else ""
    chart = curves(lines, "iteration", f"{title}, first to last point: {'; '.join(ends)}.", prefix, start_at_zero=True)
    return tag("figure", tag("h3", title), chart, tag("figcaption", f"{what}{smooth}."), class_="card")
