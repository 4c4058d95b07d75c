// One running answer: sends the request, and writes the stream into a turn of a conversation.

import { answer } from "./client.js";

const SHORTEST = 0.25; // seconds: a shorter time says nothing about the speed

export class Run {
    /**
     * `turn`: the assistant's turn; `goesOn`: whether it already has a start, which is sent too. `onChange(run)` is
     * called for each piece and each second of waiting.
     */
    constructor(conversation, turn, { goesOn, fields, onChange }) {
        Object.assign(this, { conversation, turn, goesOn, _fields: fields, _onChange: onChange });
        this.waiting = 0; // seconds until the next try at a busy server
        this.pieces = 0;
        this.begun = null; // when the first chunk arrived
        this.thinkingSince = null;
        this._stop = new AbortController();
    }

    /** Stop it; the text so far stays. */
    stop() {
        this._stop.abort();
    }

    get isThinking() {
        return this.thinkingSince !== null;
    }

    /** Seconds of thinking so far. */
    get seconds() {
        const now = this.thinkingSince === null ? 0 : (performance.now() - this.thinkingSince) / 1000;
        return (this.turn.seconds ?? 0) + now;
    }

    /** Approximate tokens per second: a chunk is nearly always one token. */
    get rate() {
        const seconds = (this._last - this.begun) / 1000;
        return this.pieces > 1 && seconds > SHORTEST ? (this.pieces - 1) / seconds : null;
    }

    /** Run until the answer is complete or was stopped. Throws ServerError. */
    async work() {
        const { conversation, turn } = this;
        const last = this.goesOn ? turn : conversation.turn(turn.parent);
        const fields = { ...this._fields, messages: conversation.messages(last, this.goesOn) };
        if (this.goesOn) fields.continue_final_message = true;
        turn.finish = "broken";
        try {
            for await (const piece of answer(fields, this._stop.signal, (left) => this._wait(left))) this._take(piece);
        } catch (error) {
            if (error.name !== "AbortError") throw error;
            turn.finish = "stopped";
        } finally {
            this._endThought();
            this._count();
            conversation.touch();
        }
    }

    _wait(left) {
        this.waiting = left;
        this._onChange(this);
    }

    _take(piece) {
        const { turn } = this;
        const now = performance.now();
        if (piece.thought || piece.text) {
            this.begun ??= now;
            this._last = now;
            this.pieces += 1;
        }
        if (piece.thought) {
            this.thinkingSince ??= now;
            turn.thought = (turn.thought ?? "") + piece.thought;
        }
        if (piece.text) {
            this._endThought();
            turn.text += piece.text;
        }
        if (piece.finish) turn.finish = piece.finish;
        if (piece.usage) this._usage = piece.usage;
        this._onChange(this);
    }

    _endThought() {
        if (this.thinkingSince === null) return;
        this.turn.seconds = this.seconds;
        this.thinkingSince = null;
    }

    /** Record length and speed. A stopped answer has no token count from the server: then its chunks are counted. */
    _count() {
        const { turn } = this;
        const tokens = this._usage?.completion_tokens ?? this.pieces;
        turn.isAbout = !this._usage || (this.goesOn && turn.isAbout === true);
        turn.tokens = tokens + (this.goesOn ? turn.tokens ?? 0 : 0);
        turn.prompt = this._usage?.prompt_tokens;
        turn.cached = this._usage?.prompt_tokens_details?.cached_tokens;
        const seconds = (this._last - this.begun) / 1000;
        turn.rate = tokens > 1 && seconds > SHORTEST ? (tokens - 1) / seconds : undefined;
    }
}
