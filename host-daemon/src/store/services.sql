-- Transitions of services: history, like the tables of schema.sql.
create table service_event (
    id integer primary key,
    unix_ms integer not null,
    service text not null,
    from_state text not null,
    to_state text not null,
    reasons text not null
) strict;
create index service_event_by_service on service_event (service, unix_ms);

-- What is learned and must outlive the daemon: states of services, what is normal for domains.
create table learned (
    kind text not null,
    key text not null,
    unix_ms integer not null,
    value text not null,
    primary key (kind, key)
) strict, without rowid;
