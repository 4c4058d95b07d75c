// Files that the reader saves and opens. Nothing leaves the computer.

import { el } from "./dom.js";

/** Let the browser save a text under this name. */
export function saveFile(name, text, type) {
    const url = URL.createObjectURL(new Blob([text], { type: `${type};charset=utf-8` }));
    el("a", { href: url, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

/** A title as a file's name. */
export function fileName(title, ending) {
    const plain = [...title.replace(/[\s\p{C}\\/:*?"<>|.]+/gu, " ").trim()].slice(0, 60).join("").trim();
    return `${plain || "rwkv-np"}.${ending}`;
}
