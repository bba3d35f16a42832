"""Have a run's replies graded by a language model, through any OpenAI-compatible endpoint.

The judge sees the instruction, the content and the reply, never how the reply came about. Each
answer is kept in the cache under a hash of endpoint and request, so that grading again costs
nothing and a grading that was interrupted goes on. The replies leave this machine for the endpoint;
the key goes there and nowhere else: not to disk, not into a log, not into an error.
"""

import json
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import httpx
import tenacity
from pydantic import BaseModel, ConfigDict, ValidationError

from saif.errors import InputError, ModelError
from saif.experiments.evaluate.run_folder import Cell, RunFolder
from saif.experiments.judge.grades import Grade, GradeRecord, read_grades, write_grades
from saif.experiments.judge.question import (
    Message,
    Question,
    first_messages,
    grade_in,
    messages_again,
)
from saif.experiments.judge.settings import (
    LONGEST_WAIT,
    JudgeSettings,
    Pace,
    Spending,
    seconds_to_wait,
)
from saif.files import sha256_of
from saif.presets.library import Library
from saif.runtime.embedded import cache_root


class _Kept(BaseModel):
    """An answered question in the cache. said: the judge's words, one or two answers."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    judge: str
    grade: Grade | None
    said: list[str]


class _BusyError(ModelError):
    """A failure that may pass. after: seconds the endpoint asked to wait, None if it didn't say."""

    after: float | None = None


class Judge:
    """Asks the endpoint, from several threads. Use it in a `with`."""

    def __init__(self, settings: JudgeSettings, cache: Path | None = None) -> None:
        self.settings = settings
        self.spending = Spending()
        self._cache = cache or cache_root() / "judge"
        self._pace = Pace(settings.per_minute)
        self._counting = threading.Lock()
        self._stopping = threading.Event()
        key = {"Authorization": f"Bearer {settings.key}"} if settings.key else {}
        self._client = httpx.Client(headers=key, timeout=settings.timeout)
        self._where = f"{settings.url.rstrip('/')}/chat/completions"

    def __enter__(self) -> "Judge":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def digest(self, question: Question) -> str:
        """Of everything that decides the answer; the name of the file that keeps it."""
        body = self._body(first_messages(question))
        return sha256_of([self._where.encode(), json.dumps(body, sort_keys=True).encode()])

    def grades(self, questions: Sequence[Question]) -> Iterator[tuple[Question, Grade | None]]:
        """The grade of each question, in no order; None where the judge gave none, twice.

        Raises ModelError when the endpoint fails for good. What was answered is kept.
        """
        unknown = []
        for question in questions:
            kept = self._recall(question)
            if kept is None:
                unknown.append(question)
            else:
                self.spending.cached += 1
                yield question, kept.grade
        self._stopping.clear()
        pool = ThreadPoolExecutor(self.settings.workers)
        try:
            asked = {pool.submit(self._ask, question): question for question in unknown}
            for answered in as_completed(asked):
                yield asked[answered], answered.result()
        finally:
            self._stopping.set()
            pool.shutdown(cancel_futures=True)

    def _ask(self, question: Question) -> Grade | None:
        messages = first_messages(question)
        said = [self._complete(messages)]
        grade = grade_in(said[0])
        if grade is None:
            said.append(self._complete(messages_again(messages, said[0])))
            grade = grade_in(said[1])
        self._keep(question, _Kept(judge=self.settings.model, grade=grade, said=said))
        return grade

    def _body(self, messages: Sequence[Message]) -> dict[str, Any]:
        return {
            "model": self.settings.model,
            "messages": list(messages),
            "temperature": 0,
            "max_tokens": 64,
        }

    def _complete(self, messages: Sequence[Message]) -> str:
        """One answer, asked for again while the failure may pass."""
        settings = self.settings
        backoff = tenacity.wait_exponential_jitter(
            multiplier=settings.backoff, max=60, jitter=settings.backoff
        )

        def pause(state: tenacity.RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            asked_for = error.after if isinstance(error, _BusyError) else None
            return backoff(state) if asked_for is None else asked_for

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_BusyError),
            wait=pause,
            stop=tenacity.stop_after_attempt(settings.attempts),
            sleep=tenacity.sleep_using_event(self._stopping),
            reraise=True,
        )
        return retrying(self._request, self._body(messages))

    def _request(self, body: dict[str, Any]) -> str:
        if self._stopping.wait(self._pace.reserve()):
            raise ModelError("The grading was stopped.")
        with self._counting:
            self.spending.requests += 1
        try:
            response = self._client.post(self._where, json=body)
        except httpx.TimeoutException as error:
            raise _BusyError(f"The judge at {self.settings.url} doesn't answer in time.") from error
        except (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError) as error:
            raise _BusyError(
                f"The judge at {self.settings.url} breaks off in mid-answer."
            ) from error
        except httpx.HTTPError as error:
            raise ModelError(
                f"The judge at {self.settings.url} can't be reached: {self._redacted(str(error))}.",
                hint="Check SAIF_JUDGE_URL or --url, and that the server runs.",
            ) from error
        if response.status_code != 200:
            raise self._refusal(response)
        return self._read(response)

    def _read(self, response: httpx.Response) -> str:
        try:
            body = response.json()
            said = body["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError) as error:
            raise ModelError(
                f"What answers at {self.settings.url} is no OpenAI-compatible endpoint.",
                hint="The address usually ends in /v1.",
            ) from error
        usage = body.get("usage")
        counts = usage if isinstance(usage, dict) else {}
        read, written = counts.get("prompt_tokens"), counts.get("completion_tokens")
        with self._counting:
            if isinstance(read, int) and isinstance(written, int):
                self.spending.tokens_in += read
                self.spending.tokens_out += written
            else:
                self.spending.uncounted += 1
        # A refusal or a cut-off chain of thought comes as null: no grade.
        return self._redacted(said) if isinstance(said, str) else ""

    def _refusal(self, response: httpx.Response) -> ModelError:
        """What a status other than 200 means."""
        url, status = self.settings.url, response.status_code
        said = self._words_of(response)
        if status in {401, 403}:
            return ModelError(
                f"The judge at {url} refuses the key (HTTP {status}).",
                hint="Set SAIF_JUDGE_KEY to one that is valid there.",
            )
        if status == 404:
            return ModelError(
                f"There is no model '{self.settings.model}' at {url}{said}.",
                hint="Check --judge-model, and the address: it usually ends in /v1.",
            )
        if status not in {408, 429} and status < 500:
            return ModelError(f"The judge at {url} refuses the request: HTTP {status}{said}.")
        after = seconds_to_wait(response.headers.get("Retry-After"))
        if after is not None and after > LONGEST_WAIT:
            return ModelError(
                f"The judge at {url} wants a pause of {after:.0f} s: HTTP {status}{said}.",
                hint="Run the command again then; what was graded is kept.",
            )
        busy = _BusyError(
            f"The judge at {url} keeps failing: HTTP {status}{said}.",
            hint="Run the command again later; what was graded is kept.",
        )
        busy.after = after
        return busy

    def _words_of(self, response: httpx.Response) -> str:
        """The endpoint's explanation behind a colon, fit for one line; empty without one."""
        try:
            error = response.json()["error"]
            said = error["message"] if isinstance(error, dict) else error
        except (ValueError, LookupError, TypeError):
            return ""
        words = "".join(c for c in " ".join(str(said).split()) if c.isprintable())
        # Cut off last, or half of the key might be left.
        return f": {self._redacted(words)[:200].rstrip('.')}" if words else ""

    def _redacted(self, text: str) -> str:
        """The text without the key: an endpoint may send back what it was sent."""
        return text.replace(self.settings.key, "[key]") if self.settings.key else text

    def _recall(self, question: Question) -> _Kept | None:
        try:
            return _Kept.model_validate_json(self._path(question).read_bytes())
        except (OSError, ValidationError):
            return None

    def _keep(self, question: Question, kept: _Kept) -> None:
        path = self._path(question)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as draft:
                draft.write(kept.model_dump_json())
            Path(draft.name).replace(path)
        except OSError as error:
            raise ModelError(
                f"The judge's answers can't be kept in {self._cache}: {error}.",
                hint="Set SAIF_CACHE to a folder of yours.",
            ) from error

    def _path(self, question: Question) -> Path:
        digest = self.digest(question)
        return self._cache / digest[:2] / f"{digest}.json"


def grade_run(
    run: RunFolder,
    judge: Judge,
    library: Library,
    advance: Callable[[int], None] = lambda _: None,
) -> list[GradeRecord]:
    """Grade every reply of a run and write its grades. Equal replies to equal questions are asked
    about once. `advance` hears how many more replies are graded.

    When it stops early, what it has so far is written too, unless more was there before.
    """
    places: dict[tuple[Cell, int], Question] = {}
    wordings: dict[str, str] = {}
    for cell, replies in run.cells().items():
        if cell.preset not in wordings:
            card = library.card(run.record.model.id, cell.preset)
            wordings[cell.preset] = library.instruction(card.instruction).main_wording
        for index, reply in enumerate(replies):
            places[cell, index] = Question(wordings[cell.preset], reply.content, reply.text)
    if not places:
        raise InputError(f"{run.path} holds no replies to grade.")
    times = Counter(places.values())
    graded: dict[Question, Grade | None] = {}
    try:
        for question, grade in judge.grades(list(times)):
            graded[question] = grade
            advance(times[question])
    finally:
        records = [
            GradeRecord(
                cell=cell,
                index=index,
                grade=graded[question],
                judge=judge.settings.model,
                asked=judge.digest(question),
            )
            for (cell, index), question in places.items()
            if question in graded
        ]
        if records and (len(graded) == len(times) or len(records) >= len(read_grades(run))):
            write_grades(run, records)
    return records
