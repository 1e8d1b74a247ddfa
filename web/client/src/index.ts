export { Call, type CallEvents, type CallState, type RememberedCall } from "./call.js";
export { SignallingClient, type ClientEvents, type ClientOptions, type Memory } from "./client.js";
export type * from "./contracts.js";
export { SignallingError, type LocalCode } from "./errors.js";
export type { Kind, Wanted } from "./media.js";
export type { StatsSummary } from "./stats.js";
