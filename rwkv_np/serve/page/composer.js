// The message field, and the button that sends the message or stops the answer.

import { icon } from "./dom.js";
import { t } from "./language.js";
import { entersLines, fit, isComposing } from "./typing.js";

export class Composer {
    /** `acts`: send (text; returns whether it was accepted), stop, editLast. */
    constructor({ area, button, line }, acts) {
        Object.assign(this, { _area: area, _button: button, _line: line, _acts: acts });
        this._drafts = new Map();
        area.addEventListener("input", () => this._changed());
        area.addEventListener("keydown", (event) => this._key(event));
        button.addEventListener("click", () => (this._isRunning ? acts.stop() : this._send()));
    }

    /** Show the draft of a conversation, by its id. */
    show(id) {
        if (this._id !== undefined) this._drafts.set(this._id, this._area.value);
        this._id = id;
        this.write(this._drafts.get(id) ?? "");
    }

    /** Put a text into the field. */
    write(text) {
        this._area.value = text;
        this._changed();
    }

    focus() {
        this._area.focus();
    }

    /** `isRunning`: an answer is being generated, and the button stops it; `line`: the status line under the field. */
    update({ isRunning, line }) {
        if (this._line.textContent !== line) this._line.textContent = line;
        if (this._isRunning !== isRunning) {
            this._isRunning = isRunning;
            this._button.replaceChildren(icon(isRunning ? "stop" : "send"));
            this._button.classList.toggle("stop", isRunning);
        }
        const label = t(isRunning ? "stop" : "send");
        if (this._button.title !== label) {
            this._button.setAttribute("aria-label", label);
            this._button.title = label;
        }
        this._button.disabled = !isRunning && !this._area.value.trim();
    }

    _changed() {
        fit(this._area);
        this._button.disabled = !this._isRunning && !this._area.value.trim();
    }

    _key(event) {
        if (isComposing(event)) return;
        if (event.key === "Enter" && !event.shiftKey && !event.altKey && !entersLines()) {
            event.preventDefault();
            this._send();
        } else if (event.key === "ArrowUp" && !this._area.value) {
            event.preventDefault();
            this._acts.editLast();
        }
    }

    _send() {
        const text = this._area.value.trim();
        if (text && !this._isRunning && this._acts.send(text)) this.write("");
    }
}
