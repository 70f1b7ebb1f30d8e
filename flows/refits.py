"""Refits (law 7): on which night's window a snapshot's generators are fitted, from the source and the calendar alone."""

from __future__ import annotations

import logging

from augmill.flows import source as reading
from augmill.flows.snapshot import Snapshot, read_json
from augmill.flows.steps import Steps
from augmill.tasks.contracts import Artifact, DataError, UserError
from augmill.tasks.recipe.nights import Refit
from augmill.tasks.rows.calendar import Calendar, parse_days
from augmill.tasks.stages.drift import DriftConfig, Profile, drift, profile, reference

_log = logging.getLogger("augmill")
Window = tuple[Artifact, Artifact]  # ingested, split


def split_to_fit(snapshot: Snapshot, steps: Steps) -> Artifact:
    """The split on which the snapshot's generators are fitted: its own, or that of an earlier night as the recipe says.

    Notes in ``snapshot.drift`` how far the rows have moved since. A snapshot of all there is, and a fold, which has no
    ingested rows of its own, are fitted on their own split.
    """
    recipe, calendar = snapshot.recipe, snapshot.recipe.partitions.calendar
    assert snapshot.split is not None
    if not calendar.dated or snapshot.name == "all" or snapshot.ingested is None:
        return snapshot.split
    windows = _Windows(snapshot, steps)
    name = fit_name(recipe.refit, calendar, snapshot.name, windows) if recipe.refit.asked else snapshot.name
    against = name if name != snapshot.name else calendar.step(name, -1)
    then, now = windows.profile(against), windows.profile(snapshot.name)
    assert now is not None
    snapshot.drift = {"fitted": name, "against": against, **(drift(now, then) if then else {})}
    return windows.split(name)


def fit_name(refit: Refit, calendar: Calendar, name: str, windows: _Windows) -> str:
    """The night whose window counts: of the grid, or the last one that drifted since; else the first that can be read.

    Where history begins after the grid's night, or too few rows stood there to be split, it is the first night after
    it with enough of them: the source up to that night decides, and the last one, ``name``, always can be read.
    """
    days = refit.every if refit.every is not None else str(refit.max_age)
    nights = calendar.between(calendar.boundary(name, parse_days(days)), name)
    if refit.when_drifted is None:
        return next(night for night in nights if windows.read(night))
    found = reference(nights, windows.profile, refit.when_drifted)
    assert found is not None  # the snapshot's own window has a profile
    return found


class _Windows:
    """The rows as of other nights, each read once."""

    def __init__(self, snapshot: Snapshot, steps: Steps) -> None:
        assert snapshot.ingested is not None and snapshot.split is not None
        self.recipe, self.steps = snapshot.recipe, steps
        self.known: dict[str, Window | None] = {snapshot.name: (snapshot.ingested, snapshot.split)}

    def read(self, night: str) -> Window | None:
        """None where the rows of that night cannot be split: none yet, too few of a class."""
        if night not in self.known:
            try:
                self.known[night] = reading.read_night(self.steps, self.recipe, night)
            except (DataError, UserError) as error:  # the snapshot's own window was read: it lies in that night's rows
                _log.info("Nothing is fitted on, or compared with, the rows as of %s: %s", night, error.problem)
                self.known[night] = None
        return self.known[night]

    def split(self, night: str) -> Artifact:
        window = self.read(night)
        assert window is not None
        return window[1]

    def profile(self, night: str) -> Profile | None:
        window = self.read(night)
        if window is None:
            return None
        made = self.steps.do(profile, DriftConfig(self.recipe.columns.fields), window[0], what=night)
        found: Profile = read_json(self.steps.site.store, made, "profile.json")
        return found
