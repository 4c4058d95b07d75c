// The actions in a conversation: send, answer, regenerate, continue, edit. Each conversation has one running answer.

import { Run } from "./run.js";

export class Talk {
    /**
     * `request()`: the fields of a request and the model's name; `onChange(conversation)`: its turns have changed, or
     * an answer has started or ended; `onPiece(run)`: an answer has grown; `onFail(conversation, turn, error)`: the
     * answer is incomplete, and `turn` is the part so far; or it is missing, and `turn` is the message without an
     * answer.
     */
    constructor({ request, onChange, onPiece, onFail }) {
        Object.assign(this, { _request: request, _onChange: onChange, _onPiece: onPiece, _onFail: onFail });
        this._runs = new Map();
    }

    /** The running answer of this conversation, or null. */
    run(conversation) {
        return this._runs.get(conversation.id) ?? null;
    }

    get isBusy() {
        return this._runs.size > 0;
    }

    stop(conversation) {
        this._runs.get(conversation.id)?.stop();
    }

    /** Add a message at the end, and get an answer. */
    say(conversation, text) {
        if (this.run(conversation)) return false;
        const last = conversation.path().at(-1);
        this.answer(conversation, conversation.add(last?.id ?? "", "user", text));
        return true;
    }

    /** Get another answer to a message of the user. */
    answer(conversation, asked) {
        if (this.run(conversation)) return;
        const { model } = this._request();
        const turn = conversation.add(asked.id, "assistant", "", { model });
        this._work(conversation, turn, false);
    }

    /** Continue an existing answer. */
    goOn(conversation, turn) {
        if (!this.run(conversation)) this._work(conversation, turn, true);
    }

    /** Add another version of a turn's text. A new message of the user gets an answer. */
    edit(conversation, turn, text) {
        if (this.run(conversation)) return null;
        const more = turn.role === "assistant" ? { model: turn.model } : {};
        const made = conversation.add(turn.parent, turn.role, text, more);
        if (turn.role === "user") this.answer(conversation, made);
        else this._onChange(conversation);
        return made;
    }

    async _work(conversation, turn, goesOn) {
        const { fields } = this._request();
        const run = new Run(conversation, turn, { goesOn, fields, onChange: this._onPiece });
        this._runs.set(conversation.id, run);
        this._onChange(conversation);
        let error = null;
        try {
            await run.work();
        } catch (failure) {
            error = failure;
        }
        this._runs.delete(conversation.id);
        const isNothing = !goesOn && !turn.text && !turn.thought;
        if (isNothing && turn.finish !== "stop" && turn.finish !== "length") conversation.drop(turn);
        this._onChange(conversation);
        if (error) this._onFail(conversation, isNothing ? conversation.turn(turn.parent) : turn, error);
    }
}
