// A conversation as a tree: an edited message or another answer is a sibling of the old one, and nothing is lost.
//
// A turn is { id, parent, role, text, thought, seconds (of thinking), finish, tokens, rate, prompt, cached, model,
// created }. `chosen` says for a turn ("" for the beginning) which of those that follow is shown; without an entry
// it is the newest. What is stored and exported is `data`, plain objects alone.

/** A name that no other has. randomUUID is missing in pages that came without TLS. */
export function newId() {
    const bytes = crypto.getRandomValues(new Uint8Array(12));
    return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

const TITLE_LENGTH = 60;

export class Conversation {
    /** `data`: what was stored; without it a new, empty one. */
    constructor(data) {
        const now = Date.now();
        this.data = data ?? { id: newId(), title: "", isNamed: false, created: now, updated: now, system: "",
            turns: [], chosen: {} };
        this._byId = new Map();
        this._after = new Map(); // by parent: a conversation may have very many turns
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

    /** The title; it is the first message's beginning until somebody names it. */
    get title() {
        if (this.data.isNamed) return this.data.title;
        const text = this._shown("")?.text.trim().split("\n")[0] ?? "";
        const letters = [...text];
        return letters.length > TITLE_LENGTH ? `${letters.slice(0, TITLE_LENGTH - 1).join("")}…` : text;
    }

    /** Name it; an empty name gives the choice back. */
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

    /** The turns that follow one ("": those at the beginning), oldest first. */
    after(parent) {
        return this._after.get(parent) ?? [];
    }

    /** A new turn after `parent` ("": at the beginning), which is shown from now on. */
    add(parent, role, text, more = {}) {
        const turn = { id: newId(), parent, role, text, created: Date.now(), ...more };
        this.data.turns.push(turn);
        this._index(turn);
        this.data.chosen[parent] = turn.id;
        this.touch();
        return turn;
    }

    /** Take a turn that nothing follows out again. */
    drop(turn) {
        this.data.turns = this.data.turns.filter((each) => each !== turn);
        this._byId.delete(turn.id);
        this._after.set(turn.parent, this.after(turn.parent).filter((each) => each !== turn));
        delete this.data.chosen[turn.id];
        if (this.data.chosen[turn.parent] === turn.id) delete this.data.chosen[turn.parent];
    }

    /** Which version of its place a turn is: { index, count }. */
    version(turn) {
        const all = this.after(turn.parent);
        return { index: all.indexOf(turn), count: all.length };
    }

    /** Show the version before (-1) or after (1) this one; returns it. */
    step(turn, by) {
        const all = this.after(turn.parent);
        const other = all[all.indexOf(turn) + by] ?? turn;
        this.data.chosen[turn.parent] = other.id;
        return other;
    }

    touch() {
        this.data.updated = Date.now();
    }

    /** Messages for the server, up to this turn and with it. Thoughts are sent for an answer that goes on. */
    messages(last, goesOn = false) {
        const turns = [];
        for (let turn = last; turn; turn = this.turn(turn.parent)) turns.push(turn);
        turns.reverse();
        const messages = turns.map((turn) => ({ role: turn.role, content: turn.text }));
        if (goesOn && last.thought) messages.at(-1).reasoning_content = last.thought;
        if (this.data.system.trim()) messages.unshift({ role: "system", content: this.data.system });
        return messages;
    }

    /** Whether all words are in its title or its turns. */
    matches(query) {
        const words = _plain(query).split(/\s+/).filter(Boolean);
        const text = _plain([this.title, ...this.data.turns.map((turn) => turn.text)].join("\n"));
        return words.every((word) => text.includes(word));
    }
}

/** Full-width letters and capitals are found by their plain forms. */
function _plain(text) {
    return text.normalize("NFKC").toLowerCase();
}
