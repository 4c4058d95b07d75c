// Small values in the browser's storage: settings and the key. If storage is not allowed, they last as long as the
// page.

const memory = new Map();

function _area(isShort) {
    try {
        return isShort ? sessionStorage : localStorage;
    } catch {
        return null;
    }
}

/** The text stored under this name, or null. */
export function recall(name, isShort = false) {
    try {
        return _area(isShort)?.getItem(`rwkv-np.${name}`) ?? memory.get(name) ?? null;
    } catch {
        return memory.get(name) ?? null;
    }
}

/** Store a text; null deletes it. `isShort`: only until the tab is closed. */
export function keep(name, text, isShort = false) {
    if (text === null) memory.delete(name);
    else memory.set(name, text);
    try {
        if (text === null) _area(isShort)?.removeItem(`rwkv-np.${name}`);
        else _area(isShort)?.setItem(`rwkv-np.${name}`, text);
    } catch {
        // It is still in memory.
    }
}
