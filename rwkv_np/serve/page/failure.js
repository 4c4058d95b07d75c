// What a reader is told when an answer did not come, or not all of it.

import { t } from "./language.js";

/** { title, text, label } of a ServerError; `isCut`: there is a part of the answer. */
export function failure(error, isCut) {
    const label = isCut && error.kind !== "key" ? "continue" : "retry";
    return { title: t(isCut ? "errorCut" : "errorTitle"), text: _words(error), label: t(label) };
}

/** The server's own words, where it had some. */
function _words(error) {
    if (error.said) return error.said;
    const known = { lost: "errorLost", broken: "errorBroken", busy: "errorBusy", key: "keyTitle" }[error.kind];
    if (known) return t(known);
    return error.status ? t("errorStatus", { status: error.status }) : error.message;
}
