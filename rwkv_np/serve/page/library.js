// All conversations: read from the store at the start, saved when they change, and synchronized between tabs.

import { Conversation } from "./conversation.js";
import { openStore } from "./store.js";

const PAUSE = 2000; // milliseconds between two saves of a growing answer

export class Library {
    /** `onChange(ids)`: other tabs have changed these; `onFail(error)`: something could not be stored. */
    constructor({ onChange, onFail }) {
        Object.assign(this, { _onChange: onChange, _onFail: onFail });
        this._all = new Map();
        this._timers = new Map();
    }

    /** Read the stored conversations. */
    async open() {
        this._store = await openStore();
        for (const data of await this._store.all()) this._all.set(data.id, new Conversation(data));
        if (typeof BroadcastChannel === "function" && this._store.isLasting) {
            this._channel = new BroadcastChannel("rwkv-np");
            this._channel.onmessage = ({ data }) => this._heard(data);
        }
    }

    get isLasting() {
        return this._store.isLasting;
    }

    get(id) {
        return this._all.get(id);
    }

    /** The conversations that match, the last used first. */
    list(query = "") {
        const found = [...this._all.values()].filter((each) => !query.trim() || each.matches(query));
        return found.sort((a, b) => b.data.updated - a.data.updated);
    }

    /** Save a conversation now. */
    async save(conversation) {
        clearTimeout(this._timers.get(conversation.id));
        this._timers.delete(conversation.id);
        this._all.set(conversation.id, conversation);
        await this._write(conversation.id, () => this._store.put(conversation.data));
    }

    /** Save it soon: for changes that come many times a second. */
    saveSoon(conversation) {
        if (this._timers.has(conversation.id)) return;
        this._timers.set(conversation.id, setTimeout(() => this.save(conversation), PAUSE));
    }

    /** Save everything that waits to be saved: the page may be about to close. */
    flush() {
        for (const id of [...this._timers.keys()]) this.save(this._all.get(id));
    }

    async remove(conversation) {
        clearTimeout(this._timers.get(conversation.id));
        this._timers.delete(conversation.id);
        this._all.delete(conversation.id);
        await this._write(conversation.id, () => this._store.remove(conversation.id));
    }

    async _write(id, work) {
        try {
            await work();
            this._channel?.postMessage(id);
        } catch (error) {
            this._onFail(error);
        }
    }

    async _heard(id) {
        const data = (await this._store.all()).find((each) => each.id === id);
        if (data) this._onChange(id, new Conversation(data), (made) => this._all.set(id, made));
        else this._onChange(id, null, () => this._all.delete(id));
    }
}
