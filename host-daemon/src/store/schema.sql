-- History: retention deletes the oldest rows, so ids rise with time.
create table domain_sample (
    id integer primary key,
    unix_ms integer not null,
    domain blob not null,
    name text not null,
    class text not null,
    vcpus integer not null,
    cpu_shares integer,
    memory_current_kib integer,
    memory_maximum_kib integer not null,
    memory_usable_kib integer,
    cpu_use_ratio real,
    wait_ratio real,
    need real,
    cpu_state text not null,
    memory_state text not null,
    received_bytes_per_s real,
    sent_bytes_per_s real,
    communicating integer,
    cycles_off_optimum integer not null
) strict;
create index domain_sample_by_domain on domain_sample (domain, unix_ms);

create table guest_process (
    id integer primary key,
    unix_ms integer not null,
    domain blob not null,
    pid integer not null,
    start_ticks integer not null,
    name text not null,
    command text not null,
    application text not null,
    level text not null,
    communicating integer not null,
    uid integer,
    unit text,
    nice integer not null,
    policy text not null,
    affinity text,
    cpu_ratio real,
    rss_kib integer not null,
    threads integer not null
) strict;
create index guest_process_by_domain on guest_process (domain, unix_ms);

create table guest_connection (
    id integer primary key,
    unix_ms integer not null,
    domain blob not null,
    pid integer,
    protocol text not null,
    local text not null,
    peer text,
    state text
) strict;
create index guest_connection_by_domain on guest_connection (domain, unix_ms);

create table finding (
    id integer primary key,
    unix_ms integer not null,
    domain blob,
    domain_name text,
    name text not null,
    severity text not null,
    summary text not null,
    evidence text not null
) strict;
create index finding_by_domain on finding (domain, unix_ms);

-- autoincrement: a number that `kvmpilot why` once explained never means another order.
create table work_order (
    id integer primary key autoincrement,
    domain blob not null,
    domain_name text not null,
    state text not null,
    created_unix_ms integer not null,
    changed_unix_ms integer not null,
    outcome text not null,
    proposal text not null
) strict;
create index work_order_by_state on work_order (state);
create index work_order_by_domain on work_order (domain);

create table ledger (
    domain blob not null,
    target text not null,
    entry text not null,
    primary key (domain, target)
) strict, without rowid;
