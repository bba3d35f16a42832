"""What only the machine's owner is offered: another model, and presets that a model lacks."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from saif.core.types import Thoroughness
from saif.errors import InputError, SaifError
from saif.presets.instructions import Instruction
from saif.runtime.load import QuantizeOrAuto, model_id
from saif.ui.admin.build_job import BuildJob
from saif.ui.services import Current, Services

if TYPE_CHECKING:
    from saif.engine.local import LocalEngine
    from saif.engine.protocol import Engine
    from saif.progress import Part, ProgressListener

Load = Callable[[str, QuantizeOrAuto], "Engine"]


class ModelAdmin:
    """Changes the model that `services` shows, and builds presets for it.

    load: a model by name. check: raises SaifError if a model is known not to load, given how many
    bytes the present one will have freed.
    """

    def __init__(
        self,
        services: Services,
        load: Load,
        check: Callable[[str, QuantizeOrAuto, int], None],
        *,
        name: str,
        quantize: QuantizeOrAuto,
    ) -> None:
        self.services = services
        self.job: BuildJob | None = None
        self.loaded: tuple[str, QuantizeOrAuto] = (name, quantize)
        self._load, self._check = load, check
        self._unit_seconds: dict[Part, float] | None = None
        self._lock = threading.Lock()

    # Another model

    def change_model(self, name: str, quantize: QuantizeOrAuto) -> None:
        """Load another model instead of this one, which comes back if that fails.

        Returns when it is there. Raises SaifError saying why it is not.
        """
        from saif.engine.local import LocalEngine

        with self._lock:
            self._check_idle()
            if self.services.busy:
                raise InputError("A reply is being written.", hint="Stop it, or wait for its end.")
            found, before = model_id(name.strip()), self.loaded
            old = self.services.current
            if not old.engine.done():
                raise InputError("A model is still loading.", hint="Wait until it is there.")
            worked = old.engine.exception() is None
            engine = old.engine.result() if worked else None
            local = engine if isinstance(engine, LocalEngine) else None
            self._check(name.strip(), quantize, local.language_model.memory if local else 0)
            if local:
                local.close()  # its threads hold the model until they end
            del old, engine, local
            try:
                self._replace(found, name.strip(), quantize)
            except Exception:
                if worked:
                    self._replace(model_id(before[0]), *before)
                raise

    def _replace(self, found: str, name: str, quantize: QuantizeOrAuto) -> None:
        from saif.runtime.allocator import give_back_memory

        engine: Future[Engine] = Future()
        # Nothing holds the present engine after this, and its memory is free for the next one.
        self.services.current = Current(found, engine)
        self._unit_seconds = None
        give_back_memory()
        try:
            engine.set_result(self._load(name, quantize))
        except BaseException as error:
            engine.set_exception(error)
            raise
        self.loaded = (name, quantize)

    # Presets that it lacks

    def buildable(self) -> list[Instruction]:
        """Instructions that the current model has no finished preset for."""
        from saif.experiments.build import makeable

        cards, _ = self.services.cards()
        done = {
            name
            for name, card in cards.items()
            if all(part.scores is not None for part in card.placements.values())
        }
        library = self.services.library
        return [library.instruction(name) for name in makeable(library) if name not in done]

    def cost(self, name: str, effort: Thoroughness) -> "tuple[dict[Part, int], float]":
        """What has to be done to build the preset, and in how many seconds; measures how fast the
        model is at the first call. Raises SaifError if it can't be built."""
        from saif.experiments.time_estimate import seconds_for

        work, unit_seconds = self._work(name, effort)
        return work, seconds_for(work, unit_seconds)

    def build(self, name: str, effort: Thoroughness) -> BuildJob:
        """Begin to build a preset. Raises SaifError if it can't be built."""
        from saif.experiments.build import make_presets

        with self._lock:
            self._check_idle()
            engine, library = self._local_engine(), self.services.library
            job = BuildJob(library.instruction(name).title, *self._work(name, effort))

            def work(on_progress: "ProgressListener", before_pass: Callable[[], None]) -> None:
                make_presets(
                    engine.background(before_pass),
                    library,
                    None,
                    [name],
                    None,
                    effort=effort,
                    on_progress=on_progress,
                    command=f"python -m saif presets build --preset {name} --effort {effort}",
                )

            self.job = job
            job.run(work, engine.wait_until_idle)
            return job

    @property
    def building(self) -> bool:
        return self.job is not None and self.job.running

    def _check_idle(self) -> None:
        if self.job is not None and self.job.running:
            raise InputError(
                f"The preset “{self.job.title}” is being made.",
                hint="Wait until it is done, or cancel it.",
            )

    def _work(self, name: str, effort: Thoroughness) -> "tuple[dict[Part, int], dict[Part, float]]":
        from saif.experiments.build import work_left
        from saif.experiments.time_estimate import measure_unit_times

        engine, library = self._local_engine(), self.services.library
        work = work_left(engine, library, name, effort)
        if self._unit_seconds is None:
            self._unit_seconds = measure_unit_times(
                engine.background(lambda: None), library.instruction(name)
            )
        return work, self._unit_seconds

    def _local_engine(self) -> "LocalEngine":
        from saif.engine.local import LocalEngine

        engine = self.services.current.engine
        if not engine.done():
            raise InputError("The model is still loading.", hint="Try again when it is there.")
        found: Any = engine.result()  # raises what loading it raised
        if not isinstance(found, LocalEngine):
            raise SaifError("Presets can only be made where the model itself runs.")
        return found
