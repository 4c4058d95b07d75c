// Parser for server-sent events: the data of each event, from pieces of text that may end anywhere.

/** Push text, get the data of the complete events. Comments and other fields are skipped. */
export class Events {
    constructor() {
        this._rest = "";
        this._data = [];
    }

    push(text) {
        const lines = (this._rest + text).split(/\r\n|\n|\r(?!$)/);
        this._rest = lines.pop();
        const found = [];
        for (const line of lines) {
            if (line.startsWith("data:")) {
                this._data.push(line.slice(line[5] === " " ? 6 : 5));
            } else if (line === "" && this._data.length) {
                found.push(this._data.join("\n"));
                this._data = [];
            }
        }
        return found;
    }
}
