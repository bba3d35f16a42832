"""Changing the model and making a preset while people chat, on tiny models."""

import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tiny import MODEL_ID, tiny_model
from ui_server import EFFORT, admin, loaded, owner_library

from saif.core.types import PLACEMENTS
from saif.decoding import Sampling
from saif.engine.local import LocalEngine, SharedEngine
from saif.engine.protocol import Engine, Message, Request, complete
from saif.errors import InputError, ModelError, SaeError
from saif.experiments import build
from saif.presets.library import Library
from saif.ui.admin.build_job import BuildJob
from saif.ui.describe import about_time
from saif.ui.services import Services

OTHER = "tests/other"


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Library:
    return owner_library(tmp_path, monkeypatch)


@pytest.fixture
def services(library: Library) -> Services:
    return Services(library, MODEL_ID, loaded(LocalEngine(tiny_model())))


def models(**more: Callable[[], Engine]) -> dict[str, Callable[[], Engine]]:
    return {
        MODEL_ID: lambda: LocalEngine(tiny_model()),
        OTHER: lambda: LocalEngine(tiny_model(model_id=OTHER)),
        **more,
    }


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@contextmanager
def answering(services: Services) -> Iterator[None]:
    """While the engine has a request in flight."""
    engine = services.current.engine.result()
    request = Request(messages=(Message("user", "hi"),), sampling=Sampling(max_new_tokens=50))
    steps = engine.stream([request])
    next(steps)
    yield
    steps.close()  # type: ignore[attr-defined]


# Another model


def test_another_model_takes_the_place_of_the_present_one(services: Services) -> None:
    present = weakref.ref(services.current.engine.result())
    admin(services, models()).change_model(f" {OTHER} ", "none")
    assert services.current.model_id == OTHER
    assert services.current.engine.result().model.id == OTHER
    assert present() is None  # its memory was free before the other one was loaded


def test_the_present_model_is_gone_before_the_next_one_comes(services: Services) -> None:
    engine = SharedEngine(tiny_model(), cache_bytes=10**6)
    complete(engine, [Request(messages=(Message("user", "hi"),))])
    services = Services(services.library, MODEL_ID, loaded(engine))
    present = weakref.ref(engine.language_model)
    del engine
    gone: list[bool] = []

    def load() -> Engine:
        gone.append(present() is None)
        return LocalEngine(tiny_model())

    admin(services, models(heavy=load)).change_model("heavy", "none")
    assert gone == [True]


def test_a_model_that_is_known_not_to_load_changes_nothing(services: Services) -> None:
    before = services.current
    with pytest.raises(ModelError, match="no model 'nonsense'"):
        admin(services, models()).change_model("nonsense", "none")
    assert services.current is before


def test_the_present_model_comes_back_if_the_next_one_fails(services: Services) -> None:
    def fail() -> Engine:
        raise ModelError("Memory ran out.")

    with pytest.raises(ModelError, match="Memory ran out"):
        admin(services, models(big=fail)).change_model("big", "4bit")
    assert services.current.model_id == MODEL_ID
    assert services.current.engine.result().model.id == MODEL_ID


def test_a_page_that_shows_the_former_model_is_told_so(services: Services) -> None:
    admin(services, models()).change_model(OTHER, "none")
    with pytest.raises(InputError, match=f"changed to {OTHER} in another window"):
        services.model_shown(MODEL_ID)
    assert services.model_shown(OTHER).model_id == OTHER
    assert services.model_shown(None).model_id == OTHER


def test_the_model_stays_while_it_loads_and_while_a_preset_is_made(services: Services) -> None:
    loading: Future[Engine] = Future()
    with services.replying(), pytest.raises(InputError, match="A reply is being written"):
        admin(services, models()).change_model(OTHER, "none")
    still = Services(services.library, MODEL_ID, loading)
    with pytest.raises(InputError, match="still loading"):
        admin(still, models()).change_model(OTHER, "none")
    shop = admin(services, models())
    with answering(services):  # so that the preset isn't done at once
        making = shop.build("letter", "quick")
        with pytest.raises(InputError, match="“Write a letter” is being made"):
            shop.change_model(OTHER, "none")
        with pytest.raises(InputError, match="“Write a letter” is being made"):
            shop.build("verse", "quick")
        making.cancel.set()
    until(lambda: not making.running)


# A preset


def test_a_preset_is_made_into_the_user_s_own_folder(services: Services, tmp_path: Path) -> None:
    shop = admin(services, models())
    before = [item.id for item in shop.buildable()]
    assert "letter" in before
    assert "summarise" not in before  # it takes passages, and none ship
    work, seconds = shop.cost("letter", "quick")
    assert work["prompts"] == EFFORT.identify_on * (2 * len(services.library.instructions()) + 2)
    assert work["replies"] > 0
    assert seconds > 0
    making = shop.build("letter", "quick")
    until(lambda: not making.running)
    assert (making.state, making.problem) == ("done", "")
    assert making.share > 0.8
    card = services.card("letter")
    assert all(card.placements[placement].scores for placement in PLACEMENTS)
    made = list((tmp_path / "own").glob("*/*.json"))
    assert [path.name for path in made] == ["letter.json"]
    assert "letter" not in [item.id for item in shop.buildable()]


def test_a_preset_that_was_not_finished_is_still_to_be_made(services: Services) -> None:
    """The tiny library's presets have no scores."""
    shop = admin(services, models())
    assert "question" in [item.id for item in shop.buildable()]
    assert shop.cost("question", "quick")[0]["prompts"] == 0


def test_without_an_sae_nothing_is_begun(services: Services) -> None:
    shop = admin(services, models())
    shop.change_model(OTHER, "none")
    for attempt in (shop.cost, shop.build):
        with pytest.raises(SaeError, match=f"no SAE for {OTHER}"):
            attempt("letter", "quick")
    assert shop.job is None


def test_a_cancelled_preset_ends_at_the_next_pass_and_goes_on_later(services: Services) -> None:
    shop = admin(services, models())
    with answering(services):
        making = shop.build("letter", "quick")
        making.cancel.set()
        until(lambda: not making.running, seconds=5)
    assert making.state == "cancelled"
    assert "letter" not in services.cards()[0]
    again = shop.build("letter", "quick")
    until(lambda: not again.running)
    assert again.state == "done"


def test_a_failure_is_explained_and_the_next_attempt_works(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = admin(services, models())

    def fail(*_: Any, **__: Any) -> None:
        raise SaeError("The SAE is damaged.", hint="Fetch it again.")

    with monkeypatch.context() as broken:
        broken.setattr(build, "make_presets", fail)
        making = shop.build("letter", "quick")
        until(lambda: not making.running)
    assert (making.state, making.problem) == ("failed", "The SAE is damaged. Fetch it again.")
    again = shop.build("letter", "quick")
    again.cancel.set()
    until(lambda: not again.running)


# Progress, and giving way


@pytest.fixture
def step() -> Iterator[threading.Semaphore]:
    """Each release lets the work take one step."""
    semaphore = threading.Semaphore(0)
    yield semaphore
    semaphore.release(1000)


def test_progress_is_a_share_of_the_expected_time(step: threading.Semaphore) -> None:
    making = BuildJob("A", {"prompts": 10, "replies": 10}, {"prompts": 1.0, "replies": 3.0})

    def work(heard: Any, _: Any) -> None:
        step.acquire()
        heard("prompts", 10)
        step.acquire()
        heard("replies", 5)
        step.acquire()

    assert making.seconds_left == 40
    thread = making.run(work, lambda _: True)
    step.release()
    until(lambda: making.share == 0.25)
    time.sleep(0.3)
    assert making.seconds_left == pytest.approx(3 * 0.3, abs=0.5)
    step.release()
    until(lambda: making.share == 10 / 40 + 15 / 40)
    step.release()
    thread.join(10)
    assert making.state == "done"


def test_work_waits_while_someone_is_answered(
    services: Services, step: threading.Semaphore
) -> None:
    making = BuildJob("A", {"replies": 2}, {"replies": 1.0})
    engine: Any = services.current.engine.result()
    passed: list[float] = []

    def work(heard: Any, _: Any) -> None:
        heard("replies", 1)
        passed.append(time.monotonic())
        step.acquire()

    with answering(services):
        thread = making.run(work, engine.wait_until_idle)
        until(lambda: making.paused)
        time.sleep(1)
        assert passed == []
        over = time.monotonic()
    until(lambda: len(passed) == 1)
    assert passed[0] >= over
    assert making.seconds_left < 0.9  # the second of waiting says nothing of how fast the work is
    step.release()
    thread.join(10)
    assert (making.state, making.paused, engine.wait_until_idle(0)) == ("done", False, True)


def test_a_preset_in_the_making_takes_no_pass_while_a_chat_is_answered(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the pass is for: residuals, log-probabilities or replies."""
    shop = admin(services, models())
    local: Any = services.current.engine.result()
    model, passes = local.language_model, []
    forward = model._model.forward
    monkeypatch.setattr(
        model._model, "forward", lambda **given: passes.append(1) or forward(**given)
    )
    making = shop.build("letter", "quick")
    for _ in range(6):
        n = len(passes)
        until(lambda n=n: len(passes) > n + 3 or not making.running)  # type: ignore[misc]
        if not making.running:
            break
        with answering(services):
            until(lambda: making.paused)
            n = len(passes)
            time.sleep(0.1)
            assert len(passes) == n
    until(lambda: not making.running)
    assert making.state == "done"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.2, "about 5 seconds"),
        (62, "about 60 seconds"),
        (95, "about 2 minutes"),
        (5_000, "about 83 minutes"),
        (9_000, "about 2.5 hours"),
    ],
)
def test_times_are_said_as_a_person_would(seconds: float, said: str) -> None:
    assert about_time(seconds) == said
