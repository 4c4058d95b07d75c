// What can be done in a conversation: say, answer, answer again, go on, edit. One answer comes at a time in each.

import { Run } from "./run.js";

export class Talk {
    /**
     * `request()`: the fields of a request and the model's name; `onChange(conversation)`: it has other turns, or
     * an answer has begun or ended; `onPiece(run)`: an answer has grown; `onFail(conversation, turn, error)`: there
     * was none, or not all of it: then `turn` is what there is, and else what waits for an answer.
     */
    constructor({ request, onChange, onPiece, onFail }) {
        Object.assign(this, { _request: request, _onChange: onChange, _onPiece: onPiece, _onFail: onFail });
        this._runs = new Map();
    }

    /** The answer that comes in this conversation, or null. */
    run(conversation) {
        return this._runs.get(conversation.id) ?? null;
    }

    get isBusy() {
        return this._runs.size > 0;
    }

    stop(conversation) {
        this._runs.get(conversation.id)?.stop();
    }

    /** A new message at the end, and an answer to it. */
    say(conversation, text) {
        if (this.run(conversation)) return false;
        const last = conversation.path().at(-1);
        this.answer(conversation, conversation.add(last?.id ?? "", "user", text));
        return true;
    }

    /** Another answer to a message of the user's. */
    answer(conversation, asked) {
        if (this.run(conversation)) return;
        const { model } = this._request();
        const turn = conversation.add(asked.id, "assistant", "", { model });
        this._work(conversation, turn, false);
    }

    /** Go on with an answer that is there. */
    goOn(conversation, turn) {
        if (!this.run(conversation)) this._work(conversation, turn, true);
    }

    /** Another text of a turn, beside the old one. One of the user's is answered. */
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
