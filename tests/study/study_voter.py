"""A participant in a process of its own, to be killed at any moment.

`python study_voter.py FOLDER VERSION-FILE NAME`: walks through studies one after the other, and
prints a line for everything that the store acknowledged, as soon as it did.
"""

import itertools
import sys
from pathlib import Path

from made_up_participants import KEY, answers, person

from saif.errors import StudyError
from saif.study.design.publish import Version
from saif.study.participation.steps import Ballot, add_exchange, begin, finish, respond, vote
from saif.study.store.store import Store


def say(*words: str) -> None:
    sys.stdout.write(" ".join(words) + "\n")
    sys.stdout.flush()


def main(folder: Path, version: Version, name: str) -> None:
    store = Store(folder, version, KEY)
    say("open")
    for number in itertools.count():
        entry = store.enrol(person(f"{name}-{number}"), share_text=True)
        say("enrolled", entry.participant_id)
        try:
            while (trial := begin(store, entry.token)) is not None:
                if trial.state == "running":
                    trial = add_exchange(store, entry.token, trial.trial_id, answers(trial))
                ballot = Ballot(vote_id=trial.vote_id or "", choice="L", reason="x" * 200)
                saved = vote(store, entry.token, ballot)
                say("voted", saved.vote_id)
                vote(store, entry.token, ballot)  # as after a lost reply
            respond(store, entry.token, "remarks", f"remark {number}")
            say("code", entry.participant_id, finish(store, entry.token))
        except StudyError as error:  # complete in an earlier life
            if "has ended (complete)" not in str(error):
                raise


if __name__ == "__main__":
    file = Path(sys.argv[2])
    main(Path(sys.argv[1]), Version.model_validate_json(file.read_bytes()), sys.argv[3])
