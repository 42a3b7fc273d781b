"""Shows the time that the experiment took beside the published estimate: wall hours and GPU-hours."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from pretrain.runtime.result import RunResult
from transfer.report.collected import ExperimentReport
from transfer.report.markup import Markup, named, scroll, tag
from transfer.trials.plan import Plan
from transfer.trials.rows import Cost


@dataclass(frozen=True)
class Spent:
    """Holds one line of the table.

    Attributes:
        name: `pre-training 'moco'`, or a row's name.
        colour: the row's colour; None for a pre-training.
        runs, wanted: numbers of finished runs and of all runs.
        hours: sum of the finished runs' wall times.
        gpu_hours: sum of wall time x processes on GPUs; None if a result does not say how many those were.
        cost: cost of one run as the experiment file states it.
    """

    name: str
    colour: int | None
    runs: int
    wanted: int
    hours: float
    gpu_hours: float | None
    cost: Cost | None

    @property
    def estimate(self) -> float | None:
        """Returns the GPU-hours of all runs by the stated cost."""
        return None if self.cost is None else self.wanted * self.cost.gpu_hours


def gpu_processes(result: RunResult) -> int | None:
    """Returns a run's number of processes on GPUs; None if its result does not say."""
    if result.provenance.get("computed_on") == "cpu":
        return 0
    return result.provenance.get("processes")


def spent(plan: Plan, report: ExperimentReport) -> list[Spent]:
    """Returns a line per pre-training, however many rows start from it, then one per row and column."""
    e, whole = plan.experiment, replace(plan, rows=())
    lines = []
    for name in whole.pretrainings:
        seeds = whole.pretraining_seeds(name)
        results = [r for seed in seeds if (r := _load(plan, name, seed)) is not None]
        lines.append(_line(f"pre-training '{name}'", None, results, len(seeds), e.pretrain[name].cost))
    for column, i, row in report.cells():
        cost = None if row.job is None else row.job.cost
        lines.append(_line(column.prefix + row.name, i, row.results, len(row.seeds), cost))
    return lines


def _load(plan: Plan, name: str, seed: int | None) -> RunResult | None:
    try:
        return RunResult.load(plan.pretrain_folder(name, seed))
    except (FileNotFoundError, ValueError):
        return None


def _line(name: str, colour: int | None, results: Sequence[RunResult], wanted: int, cost: Cost | None) -> Spent:
    processes = [gpu_processes(r) for r in results]
    hours = [r.seconds / 3600 for r in results]
    gpu_hours = None if None in processes else sum(h * (n or 0) for h, n in zip(hours, processes, strict=True))
    return Spent(name, colour, len(results), wanted, sum(hours), gpu_hours, cost)


def table(plan: Plan, report: ExperimentReport) -> Markup:
    """Makes a card that shows what was spent, per pre-training and row and in total, beside the estimate."""
    lines = spent(plan, report)
    heads = ("", "Runs", "Wall hours", "GPU-hours", "Estimate")
    head = [tag("th", text, scope="col", class_="number" if i else None) for i, text in enumerate(heads)]
    body = []
    for line in lines:
        name = line.name if line.colour is None else named(line.colour, line.name)
        source = tag("small", f"{line.cost} each") if line.cost is not None else None
        runs = str(line.runs) if line.runs == line.wanted else f"{line.runs} of {line.wanted}"
        body.append(
            tag("tr", tag("th", name, scope="row"), *_cells(runs, line.hours, line.gpu_hours, line.estimate, source))
        )
    total = _cells(
        str(sum(line.runs for line in lines)),
        sum(line.hours for line in lines),
        _sum(line.gpu_hours for line in lines),
        _sum(line.estimate for line in lines if line.estimate is not None)
        if any(line.cost for line in lines)
        else None,
    )
    body.append(tag("tr", tag("th", "all", scope="row"), *total, class_="total"))
    says = (
        "Wall time of the finished runs, added up; what ran side by side took less. GPU-hours: times processes "
        "on GPUs. Estimate: GPU-hours of all runs."
    )
    if any(line.gpu_hours is None for line in lines):
        says += " A dash: the results do not say how many of their machine's GPUs they used."
    if not any(line.cost for line in lines):
        says += " The experiment file states no cost."
    elif any(line.cost is None for line in lines):
        says += " The estimate is of the parts whose cost the experiment file states."
    element = tag("table", tag("thead", tag("tr", *head)), tag("tbody", *body), class_="tight")
    return tag("div", tag("h3", "Hours and cost"), scroll(element, "Hours and cost"),
               tag("p", says, class_="small after"), class_="card")  # fmt: skip


def _cells(
    runs: str, hours: float, gpu_hours: float | None, estimate: float | None, more: object = None
) -> list[Markup]:
    words = (runs, amount(hours), amount(gpu_hours))
    return [*(tag("td", word, class_="number") for word in words), tag("td", amount(estimate), more, class_="number")]


def _sum(values: Iterable[float | None]) -> float | None:
    found = list(values)
    return None if None in found else sum(v for v in found if v is not None)


def amount(hours: float | None) -> str:
    """Writes hours with two decimals below ten, one below a hundred, else none; unknown hours as a dash."""
    if hours is None:
        return "–"
    if hours == 0:
        return "0"
    return f"{hours:,.{2 if hours < 10 else 1 if hours < 100 else 0}f}"
