// The user interface of export and import: choosing files, and reporting the result.

import { el } from "./dom.js";
import { fileName, saveFile } from "./files.js";
import { t } from "./language.js";
import { fromFile, ImportError, LARGEST, toJson, toMarkdown } from "./transfer.js";

export class TransferView {
    constructor(library, notices, onImport) {
        Object.assign(this, { _library: library, _notices: notices, _onImport: onImport });
        this._field = el("input", { type: "file", id: "import-file", multiple: true, hidden: true,
            accept: ".json,.md,.txt,application/json,text/markdown", on: { change: () => this._chosen() } });
        document.body.append(this._field);
    }

    exportJson(conversation) {
        saveFile(fileName(conversation.title, "json"), toJson([conversation]), "application/json");
    }

    exportMarkdown(conversation) {
        const names = { user: t("you"), assistant: t("model"), system: t("system"), untitled: t("untitled") };
        saveFile(fileName(conversation.title, "md"), toMarkdown(conversation, names), "text/markdown");
    }

    exportAll() {
        saveFile("rwkv-np.json", toJson(this._library.list()), "application/json");
    }

    /** Ask for files. */
    import() {
        this._field.value = "";
        this._field.click();
    }

    async _chosen() {
        const made = [];
        for (const file of this._field.files) {
            try {
                if (file.size > LARGEST) throw new ImportError("importLarge");
                made.push(...fromFile(await file.text()));
            } catch (error) {
                if (!(error instanceof ImportError)) throw error;
                const why = t(error.key, { mb: LARGEST / 1e6 });
                this._notices.show(t("importFailed", { file: file.name, why }));
            }
        }
        for (const conversation of made) await this._library.save(conversation);
        if (!made.length) return;
        this._notices.show(t("imported", { n: made.length }));
        this._onImport(made);
    }
}
