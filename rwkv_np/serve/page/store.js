// The storage of conversations: IndexedDB, or the page's memory if the browser does not allow it.

const NAME = "rwkv-np";
const TABLE = "conversations";

/** The browser's database, or memory. `isLasting` says which. */
export async function openStore() {
    try {
        const store = new DatabaseStore(await _opened());
        await store.all(); // some browsers open a database but then do not allow its use
        return store;
    } catch {
        return new MemoryStore();
    }
}

function _opened() {
    return new Promise((resolve, reject) => {
        const request = indexedDB.open(NAME, 1);
        request.onupgradeneeded = () => request.result.createObjectStore(TABLE, { keyPath: "id" });
        request.onsuccess = () => resolve(request.result);
        request.onerror = () => reject(request.error);
        request.onblocked = () => reject(new Error("blocked"));
    });
}

class DatabaseStore {
    isLasting = true;

    constructor(database) {
        this._database = database;
        database.onversionchange = () => database.close();
    }

    all() {
        return this._do("readonly", (table) => table.getAll());
    }

    put(data) {
        return this._do("readwrite", (table) => table.put(data));
    }

    remove(id) {
        return this._do("readwrite", (table) => table.delete(id));
    }

    _do(mode, work) {
        return new Promise((resolve, reject) => {
            const transaction = this._database.transaction(TABLE, mode);
            const request = work(transaction.objectStore(TABLE));
            transaction.oncomplete = () => resolve(request.result);
            transaction.onabort = transaction.onerror = () => reject(transaction.error ?? request.error);
        });
    }
}

class MemoryStore {
    isLasting = false;

    async all() {
        return [];
    }

    async put() {}

    async remove() {}
}
