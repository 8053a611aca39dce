-- What a trial measured, who decided, and each state that an order was in.
alter table work_order add column trial text;
alter table work_order add column decided_by_uid integer;

create table order_event (
    id integer primary key,
    work_order integer not null,
    unix_ms integer not null,
    state text not null,
    outcome text not null
) strict;
create index order_event_by_order on order_event (work_order);

create trigger work_order_made after insert on work_order begin
    insert into order_event (work_order, unix_ms, state, outcome)
    values (new.id, new.changed_unix_ms, new.state, new.outcome);
end;
create trigger work_order_moved after update of state on work_order begin
    insert into order_event (work_order, unix_ms, state, outcome)
    values (new.id, new.changed_unix_ms, new.state, new.outcome);
end;
create trigger work_order_gone after delete on work_order begin
    delete from order_event where work_order = old.id;
end;
