// Made from kaiwa/reasons.py by `python -m tools.page_reasons`: change the table there.

/** Why a call ends or is refused, by the reason of the websocket's close frame. */
export const REASONS = {
  client: {
    kind: "over",
    title: "Call ended",
    sentence: "the caller hung up",
  },
  finished: {
    kind: "over",
    title: "Call ended",
    sentence: "all audio was answered",
  },
  expired: {
    kind: "over",
    title: "Time limit reached",
    sentence: "a call on this server lasts only so long; begin a new one",
  },
  idle: {
    kind: "over",
    title: "Call ended",
    sentence: "no sound arrived for too long; call again",
  },
  closed: {
    kind: "over",
    title: "Call ended",
    sentence: "the operator ended this call, or the server stopped; call again later",
  },
  garbage: {
    kind: "failed",
    title: "The server did not understand the messages of this call",
    sentence: "too many messages had no meaning; use a client that speaks the protocol of docs/server.md",
  },
  input_too_fast: {
    kind: "failed",
    title: "Call ended",
    sentence: "sound was sent faster than time passes; send one frame every 80 ms",
  },
  flood: {
    kind: "failed",
    title: "Call ended",
    sentence: "far more messages were sent than a conversation needs; send sound in messages of 20 to 80 ms",
  },
  slow_consumer: {
    kind: "failed",
    title: "Call ended",
    sentence: "this connection is too slow for a conversation; use a better one",
  },
  revoked: {
    kind: "key",
    title: "This key is no longer valid",
    sentence: "the key of this call was revoked or has expired; ask the operator for a new one",
  },
  error: {
    kind: "failed",
    title: "Something failed on the server",
    sentence: "the server met an error in this call; call again",
  },
  drain: {
    kind: "restarting",
    title: "The server is restarting",
    sentence: "the server stopped during the call; call again in a moment",
  },
  shed: {
    kind: "failed",
    title: "Call ended",
    sentence: "the server had too much to do and ended the newest call; try again later",
  },
  lost: {
    kind: "lost",
    title: "Connection lost",
    sentence: "the conversation could not be taken up again; call again",
  },
  full: {
    kind: "busy",
    title: "Server full",
    sentence: "all conversations are taken; try again in a moment",
  },
  overloaded: {
    kind: "busy",
    title: "Server busy",
    sentence: "the server has no time for one more conversation; try again in a moment",
  },
  draining: {
    kind: "restarting",
    title: "The server is restarting",
    sentence: "the server is about to stop; try again in a moment",
  },
  starting: {
    kind: "starting",
    title: "The server is starting",
    sentence: "the model is still loading; try again in a moment",
  },
  failed: {
    kind: "busy",
    title: "The server has failed",
    sentence: "the engine has failed and must be restarted; try again in a while",
  },
  stuck: {
    kind: "busy",
    title: "Server not responding",
    sentence: "the server does not answer at present; try again, and tell the operator if it stays so",
  },
  shared_state: {
    kind: "busy",
    title: "Server busy",
    sentence: "the servers cannot count the calls of a key at present; try again in a moment",
  },
  key_concurrency: {
    kind: "busy",
    title: "The limit of this key is reached",
    sentence: "this key has as many conversations as it may have at once; end one first",
  },
  key_rate: {
    kind: "busy",
    title: "The limit of this key is reached",
    sentence: "this key has begun as many calls as it may in a minute; wait a moment",
  },
  tokens: {
    kind: "busy",
    title: "Server busy",
    sentence: "too many tokens are in use at present; try again in a moment",
  },
  no_key: {
    kind: "key",
    title: "This server asks for a key",
    sentence: "no key came with the call; enter one, or ask the operator for one",
  },
  unknown_key: {
    kind: "key",
    title: "This key is not known",
    sentence: "the server does not know this key; check it, or ask the operator for one",
  },
  key_expired: {
    kind: "key",
    title: "This key is no longer valid",
    sentence: "the key counted up to a day that is over; ask the operator for a new one",
  },
  bad_token: {
    kind: "key",
    title: "This token does not count any more",
    sentence: "the token is unknown, used or too old; call again with a new one",
  },
  bad_authorization: {
    kind: "key",
    title: "The key could not be read",
    sentence: "the Authorization header holds no key; send it as `Authorization: Bearer ...`",
  },
  key_in_query: {
    kind: "key",
    title: "A key in an address is not taken",
    sentence: "addresses end up in logs; send the key as `Authorization: Bearer ...`, or a token",
  },
  not_for_this_key: {
    kind: "key",
    title: "This key is not made for this call",
    sentence: "the key does not allow this protocol or model; ask the operator",
  },
  bad_parameter: {
    kind: "failed",
    title: "The server refused the call",
    sentence: "a parameter of the address has a value that the server does not take; change it",
  },
  model_not_found: {
    kind: "failed",
    title: "The server refused the call",
    sentence: "the model that was asked for is not served here; ask for another, or for none",
  },
  webrtc_missing: {
    kind: "failed",
    title: "This server has no WebRTC",
    sentence: "the package for WebRTC is not installed on the server; call it by websocket",
  },
  webrtc_unavailable: {
    kind: "busy",
    title: "Server busy",
    sentence: "no UDP port is free for another call; try again in a moment",
  },
  wrong_model: {
    kind: "failed",
    title: "This server has another kind of model",
    sentence: "the model that is served here does not do this; call a server whose model does",
  },
  session_start_timeout: {
    kind: "failed",
    title: "The server refused the call",
    sentence: "the call was not begun in time; send the first message of the protocol as soon as the connection is open",
  },
  origin: {
    kind: "failed",
    title: "This page may not call this server",
    sentence: "the server takes no calls from web pages of this address; the operator can allow it with --origin",
  },
  signature: {
    kind: "failed",
    title: "The server refused the call",
    sentence: "the request is not signed by the telephone account of this server; compare the auth token of --twilio-auth-token-file",
  },
  host: {
    kind: "failed",
    title: "This server may not be called by this name",
    sentence: "call it by the name localhost, or let the operator allow the name with --allowed-hosts",
  },
  not_held: {
    kind: "lost",
    title: "Connection lost",
    sentence: "this server does not hold the call; begin a new one",
  },
  voucher: {
    kind: "failed",
    title: "The server refused the call",
    sentence: "another server passed the call on with a signature that does not count; give all servers the same token_secret_file, and the same time",
  },
};
