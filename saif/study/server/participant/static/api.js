// Talking to the server. What is sent is sent until it is known to be stored, or refused.

const base = document.body.dataset.base;
let token = null;

export class Refused extends Error {
  constructor(status, { error, hint }) {
    super([error, hint].filter(Boolean).join(" "));
    this.status = status; // 401: another tab has taken over
  }
}

export function use(newToken) {
  token = newToken;
}

export function isIn() {
  return token !== null;
}

function request(step, body, signal) {
  const headers = { "Content-Type": "application/json" };
  if (token) headers.Authorization = `Bearer ${token}`;
  return fetch(`${base}/${step}`, { method: "POST", headers, body: JSON.stringify(body), signal });
}

async function refusal(response) {
  const found = await response.json().catch(() => null);
  return new Refused(response.status, found ?? { error: "The server could not answer." });
}

const banner = document.getElementById("banner");
export const wait = (ms) => new Promise((done) => setTimeout(done, ms));
let troubled = 0; // how many requests are being tried again

function tell(change) {
  troubled += change;
  banner.hidden = troubled === 0;
  banner.textContent = "Not saved yet: no connection. Trying again by itself …";
}

// Every step may be sent twice without harm, so one whose reply was lost is sent again.
export async function post(step, body = {}) {
  let tries = 0;
  try {
    for (;;) {
      const response = await request(step, body).catch(() => null); // no connection
      if (response?.ok) return await response.json();
      if (response && response.status !== 503) throw await refusal(response);
      if (tries++ === 0) tell(+1);
      await wait(Math.min(1000 * 2 ** tries, 15000));
    }
  } finally {
    if (tries > 0) tell(-1);
  }
}

// The lines of a stream, one after the other. Throws where the connection is lost half way.
export async function* lines(step, body, signal) {
  const response = await request(step, body, signal);
  if (!response.ok) throw await refusal(response);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n");
    rest = parts.pop();
    for (const part of parts) yield JSON.parse(part);
  }
}

// What happened on the page helps to judge the answers; it is worth one try and no more.
export function note(kind, trial = null) {
  if (!token) return;
  request("events", { kind, trial, t_client_ms: performance.now() }).catch(() => {});
}
