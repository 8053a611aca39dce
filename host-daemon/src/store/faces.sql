-- Tokens of clients that come over TCP: their digests, never themselves.
create table token (
    name text primary key,
    sha256 blob not null unique,
    may_change integer not null,
    created_unix_ms integer not null,
    expires_unix_ms integer
) strict, without rowid;

alter table work_order add column decided_by_token text;
