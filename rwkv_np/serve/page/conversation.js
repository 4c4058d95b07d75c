// A conversation is a tree: an edited message or another answer is a sibling of the old one, so nothing is lost.
//
// A turn is { id, parent, role, text, thought, seconds (of thinking), finish, tokens, rate, prompt, cached, model,
// created }. `chosen` says for a turn ("" for the start) which of the following turns is shown; without an entry it is
// the newest. `data` is stored and exported: plain objects only.

/** A unique id. randomUUID does not exist in pages that were loaded without TLS. */
export function newId() {
    const bytes = crypto.getRandomValues(new Uint8Array(12));
    return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

const TITLE_LENGTH = 60;

export class Conversation {
    /** `data`: the stored data; without it, a new, empty conversation. */
    constructor(data) {
        const now = Date.now();
        this.data = data ?? { id: newId(), title: "", isNamed: false, created: now, updated: now, system: "",
            turns: [], chosen: {} };
        this._byId = new Map();
        this._after = new Map(); // by parent, for speed: a conversation may have very many turns
        this.data.turns.forEach((turn) => this._index(turn));
    }

    _index(turn) {
        this._byId.set(turn.id, turn);
        if (!this._after.has(turn.parent)) this._after.set(turn.parent, []);
        this._after.get(turn.parent).push(turn);
    }

    get id() {
        return this.data.id;
    }

    get isEmpty() {
        return !this.data.turns.length;
    }

    /** The title: the start of the first message, until the user renames it. */
    get title() {
        if (this.data.isNamed) return this.data.title;
        const text = this._shown("")?.text.trim().split("\n")[0] ?? "";
        const letters = [...text];
        return letters.length > TITLE_LENGTH ? `${letters.slice(0, TITLE_LENGTH - 1).join("")}…` : text;
    }

    /** Rename it; an empty name restores the automatic title. */
    rename(title) {
        this.data.title = title.trim().slice(0, 200);
        this.data.isNamed = this.data.title !== "";
    }

    turn(id) {
        return this._byId.get(id);
    }

    /** The turns that are shown, first to last. */
    path() {
        const found = [];
        for (let turn = this._shown(""); turn; turn = this._shown(turn.id)) found.push(turn);
        return found;
    }

    _shown(parent) {
        const turns = this.after(parent);
        return turns.find((turn) => turn.id === this.data.chosen[parent]) ?? turns.at(-1);
    }

    /** The turns that follow a turn ("": the first turns), oldest first. */
    after(parent) {
        return this._after.get(parent) ?? [];
    }

    /** Add a turn after `parent` ("": at the start), and show it from now on. */
    add(parent, role, text, more = {}) {
        const turn = { id: newId(), parent, role, text, created: Date.now(), ...more };
        this.data.turns.push(turn);
        this._index(turn);
        this.data.chosen[parent] = turn.id;
        this.touch();
        return turn;
    }

    /** Remove a turn that has no following turns. */
    drop(turn) {
        this.data.turns = this.data.turns.filter((each) => each !== turn);
        this._byId.delete(turn.id);
        this._after.set(turn.parent, this.after(turn.parent).filter((each) => each !== turn));
        delete this.data.chosen[turn.id];
        if (this.data.chosen[turn.parent] === turn.id) delete this.data.chosen[turn.parent];
    }

    /** The version number of a turn among its siblings: { index, count }. */
    version(turn) {
        const all = this.after(turn.parent);
        return { index: all.indexOf(turn), count: all.length };
    }

    /** Show the previous (-1) or next (1) version of a turn; returns it. */
    step(turn, by) {
        const all = this.after(turn.parent);
        const other = all[all.indexOf(turn) + by] ?? turn;
        this.data.chosen[turn.parent] = other.id;
        return other;
    }

    touch() {
        this.data.updated = Date.now();
    }

    /** Messages for the server, up to and including this turn. Thinking is sent only for an answer to be continued. */
    messages(last, goesOn = false) {
        const turns = [];
        for (let turn = last; turn; turn = this.turn(turn.parent)) turns.push(turn);
        turns.reverse();
        const messages = turns.map((turn) => ({ role: turn.role, content: turn.text }));
        if (goesOn && last.thought) messages.at(-1).reasoning_content = last.thought;
        if (this.data.system.trim()) messages.unshift({ role: "system", content: this.data.system });
        return messages;
    }

    /** Whether all words occur in its title or its turns. */
    matches(query) {
        const words = _plain(query).split(/\s+/).filter(Boolean);
        const text = _plain([this.title, ...this.data.turns.map((turn) => turn.text)].join("\n"));
        return words.every((word) => text.includes(word));
    }
}

/** Normalize full-width letters and capitals, so that a search finds them. */
function _plain(text) {
    return text.normalize("NFKC").toLowerCase();
}
