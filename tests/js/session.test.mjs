import assert from "node:assert/strict";
import { test } from "node:test";
import { Session, takeAccessKey } from "../../static/js/session.js";

const KEY = "k-e_y";

// A server that trades the key for a cookie; keepsCookie false is a browser that withholds it in a frame.
function serverWith({ keepsCookie }) {
  const seen = [];
  let cookie = false;
  const fetch = async (path, { headers, body }) => {
    seen.push({ path, authorization: headers.Authorization });
    if (path === "/session") {
      await new Promise(setImmediate);
      const right = JSON.parse(body).key === KEY;
      cookie = right && keepsCookie;
      return new Response(right ? null : '{"error": {"message": "wrong key"}}', { status: right ? 204 : 401 });
    }
    const allowed = cookie || headers.Authorization === `Bearer ${KEY}`;
    return new Response("{}", { status: allowed ? 200 : 401 });
  };
  return { fetch, seen };
}

function takeFrom(hash) {
  const replaced = [];
  const history = { state: null, replaceState: (_state, _title, address) => replaced.push(address) };
  return { accessKey: takeAccessKey({ hash, pathname: "/", search: "?a=1" }, history), replaced };
}

test("the key is taken from the address and leaves it", () => {
  assert.deepEqual(takeFrom("#key=a-b_c"), { accessKey: "a-b_c", replaced: ["/?a=1"] });
  assert.deepEqual(takeFrom("#x=1&key=a%2Bb&y=2"), { accessKey: "a+b", replaced: ["/?a=1"] });
  assert.deepEqual(takeFrom("#key=%E0%A4"), { accessKey: "%E0%A4", replaced: ["/?a=1"] });
});

test("an empty key leaves the address too, other fragments stay", () => {
  assert.deepEqual(takeFrom("#key="), { accessKey: null, replaced: ["/?a=1"] });
  assert.deepEqual(takeFrom("#message"), { accessKey: null, replaced: [] });
  assert.deepEqual(takeFrom("#monkey=1"), { accessKey: null, replaced: [] });
  assert.deepEqual(takeFrom(""), { accessKey: null, replaced: [] });
});

test("where the cookie works the key is never sent again and is forgotten", async () => {
  const { fetch, seen } = serverWith({ keepsCookie: true });
  const session = new Session(fetch);
  await session.signIn(KEY);
  assert.equal((await session.fetch("/chat")).status, 200);
  session.recognised(true);
  assert.equal(session.holdsKey, false);
  assert.ok(seen.every(({ authorization }) => authorization === undefined));
});

test("where the cookie does not stick a refused request is sent again with the key", async () => {
  const { fetch, seen } = serverWith({ keepsCookie: false });
  const session = new Session(fetch);
  await session.signIn(KEY);
  assert.equal((await session.fetch("/chat")).status, 200);
  assert.equal((await session.fetch("/chat")).status, 200);
  assert.deepEqual(seen.map(({ authorization }) => authorization), [undefined, undefined, `Bearer ${KEY}`, `Bearer ${KEY}`]);
});

test("an open route that did not recognise us switches to the key at once", async () => {
  const { fetch, seen } = serverWith({ keepsCookie: false });
  const session = new Session(fetch);
  await session.signIn(KEY);
  session.recognised(false);
  await session.fetch("/chat");
  assert.equal(seen.length, 2);
});

test("a key of any characters travels in the header as UTF-8", async () => {
  let sent;
  const session = new Session(async (path, { headers }) => {
    sent = new Headers(headers).get("Authorization");
    return new Response(null, { status: path === "/session" ? 204 : 200 });
  });
  await session.signIn("ひみつ");
  session.recognised(false);
  await session.fetch("/chat");
  assert.equal(Buffer.from(sent, "latin1").toString("utf8"), "Bearer ひみつ");
});

test("a wrong key is a failure of access and is not kept", async () => {
  const session = new Session(serverWith({ keepsCookie: true }).fetch);
  await assert.rejects(session.signIn("wrong"), { kind: "access", message: "wrong key" });
  assert.equal(session.holdsKey, false);
  assert.equal((await session.fetch("/chat")).status, 401);
});

test("a message sent while signing in waits for the cookie", async () => {
  const { fetch, seen } = serverWith({ keepsCookie: true });
  const session = new Session(fetch);
  const signingIn = session.signIn(KEY);
  assert.equal((await session.fetch("/chat")).status, 200);
  await signingIn;
  assert.deepEqual(seen.map(({ path }) => path), ["/session", "/chat"]);
});

test("no answer is a network failure, a cancelled request is not", async () => {
  const session = new Session(() => Promise.reject(new DOMException("", "AbortError")));
  await assert.rejects(session.fetch("/chat"), { kind: "network" });
  await assert.rejects(session.fetch("/chat", { signal: AbortSignal.abort() }), { name: "AbortError" });
});
