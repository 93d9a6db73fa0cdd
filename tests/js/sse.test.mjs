import assert from "node:assert/strict";
import { test } from "node:test";
import { SseParser } from "../../static/js/sse.js";

const bytesOf = (text) => new TextEncoder().encode(text);
const data = (...values) => values.map((value) => ({ type: "message", data: value }));

const STREAM = [
  "\uFEFF: ping\n\n",
  'data: {"delta": "ﾆｬｰﾝ（尻尾を振る）🐈‍⬛"}\n\n',
  "data:no space\r\n\r\n",
  "event: note\rdata: first\rdata: second\r\r",
  "data\n\n",
  "id: 7\nretry: 10\nunknown: x\n\n",
  "data:  two spaces\n: between\ndata: a: b\r\n\n",
  "data: [DONE]\n\n",
].join("");
const EVENTS = [
  { type: "comment", data: "ping" },
  ...data('{"delta": "ﾆｬｰﾝ（尻尾を振る）🐈‍⬛"}', "no space"),
  { type: "note", data: "first\nsecond" },
  ...data(""),
  { type: "comment", data: "between" },
  ...data(" two spaces\na: b", "[DONE]"),
];

function parseCut(bytes, cuts) {
  const parser = new SseParser();
  const events = [];
  let start = 0;
  for (const cut of [...cuts, bytes.length]) {
    events.push(...parser.feed(bytes.slice(start, cut)));
    start = cut;
  }
  return [...events, ...parser.flush()];
}

test("a whole stream gives its events", () => {
  assert.deepEqual(parseCut(bytesOf(STREAM), []), EVENTS);
});

test("one cut at any byte changes nothing", () => {
  const bytes = bytesOf(STREAM);
  for (let cut = 0; cut <= bytes.length; cut += 1) assert.deepEqual(parseCut(bytes, [cut]), EVENTS, `cut at ${cut}`);
});

test("two cuts at any pair of bytes change nothing", () => {
  const bytes = bytesOf(STREAM);
  for (let first = 0; first <= bytes.length; first += 1) {
    for (let second = first; second <= bytes.length; second += 1) {
      assert.deepEqual(parseCut(bytes, [first, second]), EVENTS, `cuts at ${first} and ${second}`);
    }
  }
});

test("single bytes and empty chunks change nothing", () => {
  const bytes = bytesOf(STREAM);
  const everywhere = [...bytes.keys()].flatMap((index) => [index, index]);
  assert.deepEqual(parseCut(bytes, everywhere), EVENTS);
});

test("each kind of line end alone gives the same events", () => {
  for (const end of ["\n", "\r", "\r\n"]) {
    const bytes = bytesOf(["data: 犬", "data: 猫", "", "data: b", "", ""].join(end));
    for (let cut = 0; cut <= bytes.length; cut += 1) assert.deepEqual(parseCut(bytes, [cut]), data("犬\n猫", "b"));
  }
});

test("an event is handed out with its last line end, before any later chunk", () => {
  const parser = new SseParser();
  assert.deepEqual(parser.feed(bytesOf("data: a\r\n\r")), data("a"));
  assert.deepEqual(parser.feed(bytesOf("\ndata: b\n\n")), data("b"));
});

test("flush hands out an event that lacks its blank line, once", () => {
  for (const end of ["", "\n", "\r\n"]) {
    const parser = new SseParser();
    assert.deepEqual(parser.feed(bytesOf(`data: last${end}`)), []);
    assert.deepEqual(parser.flush(), data("last"));
    assert.deepEqual(parser.flush(), []);
  }
});

test("a character cut off by the end becomes the replacement character", () => {
  const parser = new SseParser();
  parser.feed(bytesOf("data: 猫").slice(0, -1));
  assert.deepEqual(parser.flush(), data("\uFFFD"));
});

test("a mark of byte order inside the stream is kept as text", () => {
  assert.deepEqual(parseCut(bytesOf("data: a\n\ndata: \uFEFFb\n\n"), []), data("a", "\uFEFFb"));
});
