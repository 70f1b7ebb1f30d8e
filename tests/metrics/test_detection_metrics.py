"""Mean average precision against COCO's own code, also where pictures weigh, and stand twice."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from augmill.tasks.contracts import Judged
from augmill.tasks.metrics import METRICS
from augmill.tasks.metrics.detection import matched
from augmill.tasks.problems.detection import overlaps

Boxes = list[list[dict[str, Any]]]


def objects(values: Boxes) -> Any:
    found = np.empty(len(values), dtype=object)
    found[:] = values
    return found


def judged(truth: Boxes, said: Boxes) -> Judged:
    return Judged(objects(truth), objects(said), None, np.arange(len(truth)), len(truth))


def measured(name: str, truth: Boxes, said: Boxes, weights: Any = None) -> float:
    whole = np.ones((1, len(truth))) if weights is None else np.atleast_2d(weights)
    return float(METRICS[name].values(METRICS[name].prepare(judged(truth, said)), whole.astype(np.float32))[0])


def theirs(truth: Boxes, said: Boxes) -> dict[str, float]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    labels = sorted({box["label"] for boxes in truth for box in boxes})
    place = {label: at + 1 for at, label in enumerate(labels)}
    images = [{"id": at + 1} for at in range(len(truth))]
    real = [
        {"image_id": at + 1, "category_id": place[box["label"]], "bbox": box["bbox"], "iscrowd": 0}
        | {"area": box["bbox"][2] * box["bbox"][3]}
        for at, boxes in enumerate(truth)
        for box in boxes
    ]
    told = [
        {"image_id": at + 1, "category_id": place[box["label"]], "bbox": box["bbox"], "score": box["score"]}
        for at, boxes in enumerate(said)
        for box in boxes
        if box["label"] in place
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        known = COCO()
        annotations = [each | {"id": at + 1} for at, each in enumerate(real)]
        categories = [{"id": at, "name": label} for label, at in place.items()]
        known.dataset = {"images": images, "annotations": annotations, "categories": categories, "info": {}}
        known.createIndex()
        found = COCOeval(known, known.loadRes(told), "bbox")
        found.params.areaRng, found.params.areaRngLbl = [[0, 1e10]], ["all"]
        found.evaluate()
        found.accumulate()
    precision = found.eval["precision"][..., 0, -1]
    return {
        name: float(part[part > -1].mean()) for name, part in (("map", precision), ("map50", precision[0]))
    }  # fmt: skip


def drawn(seed: int) -> tuple[Boxes, Boxes]:
    """Boxes of three labels; predictions of most, moved a little, some under another label, some of nothing."""
    rng = np.random.default_rng(seed)
    truth, said = list[Any](), list[Any]()
    for _ in range(int(rng.integers(1, 15))):
        own = [
            {"bbox": [*rng.uniform(0, 60, 2), *rng.uniform(5, 40, 2)], "label": "abc"[rng.integers(3)]}
            for _ in range(int(rng.integers(0, 6)))
        ]
        near = [box for box in own for _ in range(int(rng.integers(0, 4)))]
        told = [
            {"bbox": np.maximum(np.array(box["bbox"]) + rng.normal(0, 2, 4), 1).tolist(), "score": float(rng.random())}
            | {"label": box["label"] if rng.random() < 0.8 else "abcd"[rng.integers(4)]}
            for box in near
        ]
        truth.append(own)
        said.append(told)
    return truth, said


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_it_is_what_cocos_own_code_gives_also_of_a_resample(seed: int) -> None:
    truth, said = drawn(seed)
    weights = np.random.default_rng(seed).integers(0, 4, len(truth))
    taken = [at for at, weight in enumerate(weights) for _ in range(weight)]
    known = {box["label"] for at in taken for box in truth[at]}
    assume(any(box["label"] in known for at in taken for box in said[at]))
    twice = theirs([truth[at] for at in taken], [said[at] for at in taken])
    whole = theirs(truth, said)
    for name in ("map", "map50"):
        assert measured(name, truth, said) == pytest.approx(whole[name], abs=1e-9)
        assert measured(name, truth, said, weights) == pytest.approx(twice[name], abs=1e-9)


def test_of_a_label_in_a_picture_the_surest_hundred_count() -> None:
    many = [{"bbox": [200.0, 200.0, 9.0, 9.0], "label": "a", "score": 0.5 + at / 1000} for at in range(100)]
    right = {"bbox": [0.0, 0.0, 9.0, 9.0], "label": "a", "score": 0.4}
    truth = [[{"bbox": [0.0, 0.0, 9.0, 9.0], "label": "a"}]]
    assert measured("map", truth, [[*many, right]]) == theirs(truth, [[*many, right]])["map"] == 0
    assert measured("map", truth, [[*many[1:], right]]) == pytest.approx(0.01)


def test_what_is_not_there_counts_for_nothing() -> None:
    one = [{"bbox": [0.0, 0.0, 9.0, 9.0], "label": "a"}]
    sure = [{**one[0], "score": 0.9}]
    assert np.isnan(measured("map", [[]], [sure])) and measured("map", [one], [[]]) == 0
    assert np.isnan(measured("map", [one, []], [sure, []], [0, 1])), "no box stands in this resample"
    assert measured("map", [one], [sure]) == 1
    assert measured("map", [one, []], [sure, [{**sure[0], "score": 0.95}]]) == pytest.approx(0.5)
    assert measured("map", [one], [[*sure, {**sure[0], "label": "never seen"}]]) == 1


def test_a_box_is_found_once_and_by_the_surest() -> None:
    real, told = np.array([[0, 0, 10, 10.0]]), np.array([[0, 0, 10, 9.0], [0, 0, 10, 10.0]])
    assert overlaps(told, real)[:, 0].tolist() == [0.9, 1.0]
    assert matched(told, real, np.array([0.5, 0.95])).tolist() == [[True, False], [False, True]]
