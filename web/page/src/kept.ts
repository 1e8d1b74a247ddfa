import type { Memory } from "../../client/src/index.js";

/** What this tab needs to go on after a reload. */
export interface Tab {
  name: string;
  token?: string | undefined;
  memory?: Memory | undefined;
  /** Since when the call has been talked in, ms since the epoch. */
  since?: number | undefined;
}

export interface Recent {
  user: string;
  type: "audio" | "video";
  incoming: boolean;
  missed: boolean;
  at: number;
}

const RECENTS_MAX = 20;
const CONTACTS_MAX = 100;
const TAB = "tab";

/** Taken, not read: a copy of this tab must not go on with the same session. */
export function takeTab(): Tab | undefined {
  const tab = read<Tab>(sessionStorage, TAB);
  sessionStorage.removeItem(TAB);
  return tab;
}

export const keepTab = (tab: Tab) => sessionStorage.setItem(TAB, JSON.stringify(tab));

export const contacts = (name: string) => read<string[]>(localStorage, `contacts:${name}`) ?? [];

export function keepContacts(name: string, users: string[]): void {
  localStorage.setItem(`contacts:${name}`, JSON.stringify(users.slice(-CONTACTS_MAX)));
}

export const recents = (name: string) => read<Recent[]>(localStorage, `recents:${name}`) ?? [];

export function keepRecent(name: string, recent: Recent): void {
  localStorage.setItem(`recents:${name}`, JSON.stringify([recent, ...recents(name)].slice(0, RECENTS_MAX)));
}

function read<T>(storage: Storage, key: string): T | undefined {
  try {
    return (JSON.parse(storage.getItem(key) ?? "null") as T | null) ?? undefined;
  } catch {
    return undefined;
  }
}
