"""Describes a plan before it runs: its stages and commands, what is missing, and what the papers say it costs."""

from __future__ import annotations

from collections.abc import Sequence

from transfer.trials.jobs import Outcome
from transfer.trials.plan import Plan
from transfer.trials.preflight import missing, refused
from transfer.trials.remaining import remaining
from transfer.trials.rows import Column, Cost
from transfer.trials.stages import Stage, StageError


def describe(plan: Plan) -> str:
    """Returns the plan as text: stages with state and command, the cost, then what is missing or refused."""
    e = plan.experiment
    lines = [f"{e.title}: {'; '.join(_size(plan, column) for column in e.columns)}, into {e.output}", ""]
    stages = list(plan.stages())
    states = [_state(stage) for stage in stages]
    for n, (stage, state) in enumerate(zip(stages, states, strict=True), 1):
        lines.append(f"{n}. {stage.name} [{state}]")
        lines.append(f"   {stage.shell}")
    left = {stage.folder for stage, state in zip(stages, states, strict=True) if state != "done"}
    lines += ["", *costs(plan), f"on this machine: {remaining(stages, left)}", ""]
    lacking = missing(plan)
    lines.append(f"missing: {len(lacking)}" if lacking else "nothing is missing")
    lines += map(str, lacking)
    if wrong := refused(plan):
        lines += [f"refused: {len(wrong)}", *wrong]
    return "\n".join(lines)


def _state(stage: Stage) -> str:
    try:
        return stage.state()
    except (StageError, OSError) as error:
        return str(error)


def _size(plan: Plan, column: Column) -> str:
    rows = sum(c is column for c, _ in plan.runs())
    n = column.trials
    return f"{column.prefix}{rows} row{'s' * (rows != 1)} x {n} trial{'s' * (n != 1)} on {plan.runner(column)}"


def costs(plan: Plan) -> list[str]:
    """Returns the cost that the papers state for each part of the plan, and the sum of the stated costs."""
    e = plan.experiment
    parts: list[tuple[str, int, Cost | None]] = []
    if not plan.only or "pretrain" in plan.only:
        parts += [(f"pre-train '{n}'", len(plan.pretraining_seeds(n)), e.pretrain[n].cost) for n in plan.pretrainings]
    for column, row in plan.runs() if not plan.only or "trials" in plan.only else ():
        job = row.job(column)
        what = f"fine-tune '{row.name}'" if job is not None else f"{column.probe} probe of '{row.name}'"
        parts.append((column.prefix + what, column.trials, None if job is None else job.cost))
    known = [(times, cost) for _, times, cost in parts if cost is not None]
    unknown = len(parts) - len(known)
    total = sum(times * cost.gpu_hours for times, cost in known)
    if not known:
        head = "estimated cost: not published"
    else:
        head = f"estimated cost: {total:,.0f} GPU-hours" + (f" and {unknown} parts not published" if unknown else "")
    return [head, *(f"  {what} x {times}: {cost or 'not published'}" for what, times, cost in parts)]


def problems(outcomes: Sequence[Outcome]) -> list[str]:
    """Returns lines about the stages that are not done; stages that wait for the same thing share a line."""
    ended = [o for o in outcomes if o.state in ("failed", "stopped")]
    lines = [o.error if o.error.startswith(o.stage) else f"{o.stage}: {o.error}" for o in ended]
    waiting: dict[str, list[str]] = {}
    for outcome in outcomes:
        if outcome.state == "blocked":
            waiting.setdefault(outcome.error, []).append(outcome.stage)
    for reason, stages in waiting.items():
        others = f" and {len(stages) - 1} more" if len(stages) > 1 else ""
        lines.append(f"{stages[0]}{others} not run: {reason}")
    return lines
