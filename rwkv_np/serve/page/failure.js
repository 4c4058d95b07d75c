// The message for the user when an answer is missing or incomplete.

import { t } from "./language.js";

/** { title, text, label } for a ServerError; `isCut`: a part of the answer exists. */
export function failure(error, isCut) {
    const label = isCut && error.kind !== "key" ? "continue" : "retry";
    return { title: t(isCut ? "errorCut" : "errorTitle"), text: _words(error), label: t(label) };
}

/** The server's own message, if it sent one. */
function _words(error) {
    if (error.said) return error.said;
    const known = { lost: "errorLost", broken: "errorBroken", busy: "errorBusy", key: "keyTitle" }[error.kind];
    if (known) return t(known);
    return error.status ? t("errorStatus", { status: error.status }) : error.message;
}
