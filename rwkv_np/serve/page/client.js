// The part of the server's API that the page needs: the model, and streamed answers.
//
// A busy server (429, 503) says when to retry, and the request is retried then. Every other error is a ServerError with
// a message to show.

import { Events } from "./events.js";
import { keep, recall } from "./kept.js";

const TRIES = 8;
const LONGEST_WAIT = 120; // seconds

/**
 * An error of a request: `kind` is "key" (401), "busy", "refused" (another status), "lost" (no connection) or "broken"
 * (the stream ended too early); `said` is the server's own message.
 */
export class ServerError extends Error {
    constructor(kind, { status = 0, said = "" } = {}) {
        super(said || kind);
        Object.assign(this, { kind, status, said });
    }
}

/** The API key from the user, if any. */
export const key = {
    get: () => recall("key", true) ?? recall("key"),
    set(text, isKept) {
        key.forget();
        keep("key", text, !isKept);
    },
    forget() {
        keep("key", null, true);
        keep("key", null);
    },
};

/** The server's model: { id, template, thinks }. */
export async function readModel() {
    const response = await _asked("v1/models", { headers: _headers() });
    const card = (await response.json()).data?.[0] ?? {};
    return { id: String(card.id ?? ""), template: String(card.template ?? ""), thinks: card.thinks === true };
}

/**
 * The chunks of an answer: { thought, text, finish, usage }; each field is optional. While the page waits to retry,
 * `onWait(seconds)` is called each second, and with 0 when the request is sent again.
 */
export async function* answer(fields, signal, onWait) {
    const body = JSON.stringify({ ...fields, stream: true, stream_options: { include_usage: true } });
    const headers = { ..._headers(), "Content-Type": "application/json" };
    const request = { method: "POST", headers, body, signal };
    const response = await _untilFree(() => _asked("v1/chat/completions", request), signal, onWait);
    yield* _pieces(response, signal);
}

function _headers() {
    return key.get() ? { Authorization: `Bearer ${key.get()}` } : {};
}

async function _untilFree(ask, signal, onWait) {
    for (let i = 1; ; i += 1) {
        try {
            return await ask();
        } catch (error) {
            if (error.kind !== "busy" || i === TRIES) throw error;
            for (let left = error.wait ?? Math.min(2 ** i, 30); left > 0; left -= 1) {
                onWait(left);
                await _second(signal);
            }
            onWait(0);
        }
    }
}

function _second(signal) {
    return new Promise((resolve, reject) => {
        const stop = () => reject(new DOMException("", "AbortError"));
        if (signal.aborted) stop();
        const timer = setTimeout(() => {
            signal.removeEventListener("abort", stop);
            resolve();
        }, 1000);
        signal.addEventListener("abort", () => {
            clearTimeout(timer);
            stop();
        }, { once: true });
    });
}

async function _asked(path, options) {
    let response;
    try {
        response = await fetch(path, { cache: "no-store", credentials: "same-origin", ...options });
    } catch (error) {
        throw error.name === "AbortError" ? error : new ServerError("lost");
    }
    if (response.ok) return response;
    const said = await _said(response);
    const kind = { 401: "key", 429: "busy", 503: "busy" }[response.status] ?? "refused";
    throw Object.assign(new ServerError(kind, { status: response.status, said }), { wait: _wait(response) });
}

/** The message of an error object; a proxy in front of the server may send something else. */
async function _said(response) {
    try {
        const message = JSON.parse(await response.text()).error.message;
        return typeof message === "string" ? message : "";
    } catch {
        return "";
    }
}

/** Retry-After in whole seconds; the header has a number or a date. */
function _wait(response) {
    const text = response.headers.get("retry-after");
    if (!text) return undefined;
    const seconds = /^\d+$/.test(text) ? Number(text) : (Date.parse(text) - Date.now()) / 1000;
    return Number.isFinite(seconds) ? Math.min(LONGEST_WAIT, Math.max(1, Math.ceil(seconds))) : undefined;
}

async function* _pieces(response, signal) {
    const reader = response.body.getReader();
    const decoder = new TextDecoder();
    const events = new Events();
    try {
        for (;;) {
            const { done, value } = await _read(reader, signal);
            const found = events.push(done ? `${decoder.decode()}\n\n` : decoder.decode(value, { stream: true }));
            for (const data of found) {
                if (data === "[DONE]") return;
                yield* _piece(data);
            }
            if (done) throw new ServerError("broken");
        }
    } finally {
        reader.cancel().catch(() => {});
    }
}

async function _read(reader, signal) {
    try {
        return await reader.read();
    } catch (error) {
        if (signal.aborted) throw new DOMException("", "AbortError");
        throw new ServerError("broken");
    }
}

function* _piece(data) {
    let chunk;
    try {
        chunk = JSON.parse(data);
    } catch {
        throw new ServerError("broken");
    }
    if (chunk.error) throw new ServerError("refused", { said: String(chunk.error.message ?? "") });
    const choice = chunk.choices?.[0];
    const piece = { thought: choice?.delta?.reasoning_content ?? "", text: choice?.delta?.content ?? "",
        finish: choice?.finish_reason ?? null, usage: chunk.usage ?? null };
    if (piece.thought || piece.text || piece.finish || piece.usage) yield piece;
}
