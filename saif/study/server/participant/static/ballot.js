// What can be chosen about two answers, and how it is said.

import { chosen, group, radio, sideName } from "./form.js";

const ballot = JSON.parse(document.getElementById("trial").dataset.ballot);
const CHOICES = {
  tie: "Both are equally good",
  both_bad: "Neither is any good",
  skip: "I would rather not say",
};
// A check has no answers on the page: what stands beside each other is what can be chosen.
const CHECK_CHOICES = { L: "The answer on the left", R: "The answer on the right", skip: CHOICES.skip };

const called = (choice, isCheck) =>
  (isCheck ? CHECK_CHOICES[choice] : CHOICES[choice] ?? sideName(choice));

// A vote as words and elements to be shown.
export function inWords({ choice, clearly }, isCheck) {
  return [called(choice, isCheck), clearly ? `, ${ballot.clearly[clearly - 1]}` : ""];
}

// The fields of a vote: the choice, and how clear it is, which is hidden until a side is chosen.
export function ballotFields(form, isCheck) {
  const offered = isCheck ? Object.keys(CHECK_CHOICES) : ballot.choices;
  const choices = group(
    isCheck ? "Your choice" : ballot.text,
    ...offered.map((choice) => radio("choice", choice, called(choice, isCheck), true)),
  );
  choices.classList.toggle("beside", isCheck);
  const clearly = group(
    "How clearly?",
    ...ballot.clearly.map((label, i) => radio("clearly", i + 1, label, true)),
  );
  clearly.hidden = clearly.disabled = true;
  choices.onchange = () => {
    const side = ["L", "R"].includes(chosen(form, "choice"));
    clearly.hidden = clearly.disabled = !side || isCheck || ballot.clearly.length === 0;
  };
  return [choices, clearly];
}
