// Talks to the server that the page came from.

const NAME = "token";
const asked = new URLSearchParams(location.hash.slice(1));
// A server with a token: open the page as /#token=... (a fragment is not sent to anybody).
let token = asked.get(NAME) || sessionStorage.getItem(NAME);
if (token) sessionStorage.setItem(NAME, token);
if (asked.has(NAME)) {
  asked.delete(NAME);
  history.replaceState(history.state, "", asked.size ? "#" + asked : location.pathname);
}

export const hasToken = () => Boolean(token);

export function setToken(given) {
  token = given || null;
  if (token) sessionStorage.setItem(NAME, token);
  else sessionStorage.removeItem(NAME);
}

// An answer that says what is wrong.
export class Problem extends Error {
  constructor(status, answer) {
    super((answer.title || "Error") + ": " + (answer.detail || status));
    this.status = status;
    this.detail = answer.detail || "";
  }
}

export async function call(path, body, { method = body === undefined ? "GET" : "POST", keepalive = false } = {}) {
  const headers = token ? { authorization: "Bearer " + token } : {};
  if (body !== undefined) headers["content-type"] = "application/json";
  let response;
  try {
    response = await fetch(path, { method, headers, keepalive, body: body === undefined ? undefined : JSON.stringify(body) });
  } catch {
    throw new Problem(0, { title: "The server cannot be reached", detail: "is it running?" });
  }
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Problem(response.status, answer);
  return answer;
}

export const query = (parameters) => "?" + new URLSearchParams(parameters);
export const part = encodeURIComponent;
