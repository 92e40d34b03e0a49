// A receiver of paywatch's webhooks that verifies, de-duplicates, keeps the order, and ships once.
//
//     WEBHOOK_SECRETS="whsec_…" node receiver.mjs [PORT] [FILE]      # Node 20 or newer, nothing to install
//
// During a rotation WEBHOOK_SECRETS holds the old and the new secret, separated by a space. It listens on loopback: the
// web server in front of it speaks https and passes on POST /paywatch with headers and body as they are.
//
// What was done is kept in FILE, one JSON object a line, for one process. With a database a line is a transaction.

import { createHmac, timingSafeEqual } from "node:crypto";
import fs from "node:fs";
import { createServer } from "node:http";

const BODY_BYTES_MAX = 65_536; // no event is larger
const TOLERANCE_SECONDS = 300;
const PORT = Number(process.argv[2] ?? 8080);
const FILE = fs.openSync(process.argv[3] ?? "shop.jsonl", "a+");
const KEYS = (process.env.WEBHOOK_SECRETS ?? "").split(/\s+/).filter(Boolean).map(keyOf);
if (KEYS.length === 0) throw new Error("WEBHOOK_SECRETS is not set");

const seen = new Set(); // webhook ids
const invoices = new Map(); // id: { sequence, status }
const shipped = new Set(); // invoice ids
let end = 0; // of the last whole line in FILE, in bytes

function keyOf(secret) {
  if (!/^whsec_[A-Za-z0-9+/]+=*$/.test(secret)) throw new Error("WEBHOOK_SECRETS: write whsec_ and base64");
  return Buffer.from(secret.slice("whsec_".length), "base64");
}

// Whether one of our secrets signed just these bytes, within five minutes of now.
function isSigned(headers, body) {
  const { "webhook-id": id, "webhook-timestamp": time, "webhook-signature": signatures } = headers;
  if (!id || !signatures || !/^\d{1,12}$/.test(time ?? "")) return false;
  if (Math.abs(Date.now() / 1000 - Number(time)) > TOLERANCE_SECONDS) return false;
  return KEYS.some((key) => {
    const expected = createHmac("sha256", key).update(`${id}.${time}.`).update(body).digest();
    return signatures.split(" ").some((signature) => {
      const given = Buffer.from(signature.startsWith("v1,") ? signature.slice(3) : "", "base64");
      return given.length === expected.length && timingSafeEqual(given, expected);
    });
  });
}

// What an event asks for: the line that says what was done.
function lineOf(webhookId, { type, data }) {
  const { invoiceId, sequence, status, reference, test } = data;
  if (!invoiceId || !Number.isInteger(sequence) || !status) throw new TypeError("no event of an invoice");
  const line = { webhookId, invoiceId, sequence, status };
  if (type === "invoice.anomaly") line.concern = data.anomaly; // money that changed nothing: never out of date
  if (sequence > (invoices.get(invoiceId)?.sequence ?? 0)) { // no later event has been here
    if (status === "CONFIRMED" && !test) { // not the type: this event may have overtaken that one
      if (!shipped.has(invoiceId)) line.ship = { reference }; // what the warehouse works off
    } else if (shipped.has(invoiceId)) line.concern ??= `${status} after it was shipped`; // for a person
  }
  return line;
}

function remember({ webhookId, invoiceId, sequence, status, ship }) {
  seen.add(webhookId);
  if (sequence > (invoices.get(invoiceId)?.sequence ?? 0)) invoices.set(invoiceId, { sequence, status });
  if (ship) shipped.add(invoiceId);
}

// One line, on disk or not at all. Nothing else runs meanwhile, so that one event is taken at a time.
function take(webhookId, event) {
  if (seen.has(webhookId)) return; // sent again: it is done already
  const line = lineOf(webhookId, event);
  const text = JSON.stringify(line) + "\n";
  fs.ftruncateSync(FILE, end); // what is left of a write that failed
  fs.appendFileSync(FILE, text);
  fs.fsyncSync(FILE);
  end += Buffer.byteLength(text);
  remember(line);
}

// What was done before; a last line that was cut off was never answered, and comes again.
function goOn() {
  const bytes = fs.readFileSync(FILE);
  end = bytes.lastIndexOf("\n") + 1;
  fs.ftruncateSync(FILE, end);
  fs.fsyncSync(FILE);
  for (const text of bytes.toString("utf8", 0, end).split("\n").slice(0, -1)) remember(JSON.parse(text));
}

async function statusOf(request) {
  if (request.method !== "POST" || request.url !== "/paywatch") return 404;
  const length = request.headers["content-length"];
  if (length === undefined) return 411;
  if (Number(length) > BODY_BYTES_MAX) return 413;
  const parts = [];
  for await (const part of request) parts.push(part);
  const body = Buffer.concat(parts); // the bytes as they came: nothing is parsed before they are verified
  if (!isSigned(request.headers, body)) return 401;
  try {
    take(request.headers["webhook-id"], JSON.parse(body));
  } catch (error) {
    console.error(error.message);
    return error.code ? 503 : 422; // the disk: paywatch sends it again; or an event that is not understood
  }
  return 204; // only now, after the commit
}

goOn();
const server = createServer({ requestTimeout: 10_000, headersTimeout: 10_000 }, async (request, response) => {
  try {
    const status = await statusOf(request);
    response.writeHead(status, { connection: "close" }).end(); // what was not read is not read
  } catch {
    response.destroy(); // the client broke off
  }
});
server.listen(PORT, "127.0.0.1", () => console.log(`http://127.0.0.1:${server.address().port}/paywatch`));
