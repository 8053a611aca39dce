//! [`FlowsView`].

use std::net::{IpAddr, SocketAddr};

use kvmpilot_core::model::{DomainModel, FlowModel, FlowsModel, Owner, TrafficRate};
use kvmpilot_core::sample::FlowSample;

use super::{Scene, seconds};
use crate::api::views::{DeviceView, EndedView, FlowView, FlowsView, OwnerView, RateView};

pub(super) fn flows(domain: &DomainModel, scene: &Scene<'_>) -> FlowsView {
    let view = FlowsView { domain: domain.name.clone(), uuid: domain.uuid, ..FlowsView::default() };
    let Some(flows) = &domain.flows else {
        let tier = scene.tiers.iter().find(|tier| tier.tier == 3);
        let message = match tier {
            Some(tier) if !tier.on => format!("flows are not watched: {}", tier.reason),
            _ if domain.interfaces.is_empty() => "the domain has no tap device".to_owned(),
            _ => "the domain's devices have not been read yet".to_owned(),
        };
        return FlowsView { message: Some(message), ..view };
    };
    filled(view, flows, scene)
}

fn filled(view: FlowsView, model: &FlowsModel, scene: &Scene<'_>) -> FlowsView {
    let mut flows: Vec<FlowView> = model.flows.iter().map(flow).collect();
    let busy = |flow: &FlowView| {
        let rate = flow.rate;
        rate.sent_bytes_per_s.unwrap_or(0.0) + rate.received_bytes_per_s.unwrap_or(0.0)
    };
    flows.sort_by(|a, b| {
        busy(b)
            .total_cmp(&busy(a))
            .then_with(|| b.total.bytes().cmp(&a.total.bytes()))
            .then(a.guest.cmp(&b.guest))
    });
    let mut ended: Vec<EndedView> = model
        .ended
        .iter()
        .map(|ended| EndedView {
            protocol: protocol(ended.sample.ip_protocol),
            direction: ended.sample.side.into(),
            port: ended.sample.port,
            flows: ended.sample.flows,
            idle_s: millis(ended.sample.idle_ms),
            total: ended.sample.traffic,
            rate: rate(ended.rate),
            owner: owner(&ended.owner),
        })
        .collect();
    ended.sort_by_key(|ended| (std::cmp::Reverse(ended.total.bytes()), ended.port));
    FlowsView {
        age_s: Some(seconds(scene.now.saturating_sub(model.at))),
        watched_s: Some(millis(model.sample.watched_ms)),
        window_s: model.window.map(seconds),
        devices: model
            .devices
            .iter()
            .map(|device| DeviceView {
                device: device.sample.device.clone(),
                total: device.sample.traffic,
                rate: rate(device.rate),
            })
            .collect(),
        total: model.sample.total,
        rate: rate(model.rate),
        flows_made: model.sample.flows_made,
        flows_evicted: model.sample.flows_evicted,
        unseen: model.sample.unseen,
        flows,
        ended,
        ..view
    }
}

fn flow(flow: &FlowModel) -> FlowView {
    let sample = &flow.sample;
    FlowView {
        source: sample.source,
        protocol: protocol(sample.ip_protocol),
        guest: endpoint(sample, sample.guest_address, sample.guest_port),
        peer: endpoint(sample, sample.peer_address, sample.peer_port),
        direction: (sample.guest_port != 0).then(|| sample.service().0.into()),
        state: sample.state,
        age_s: millis(sample.age_ms),
        idle_s: millis(sample.idle_ms),
        total: sample.traffic,
        rate: rate(flow.rate),
        owner: owner(&flow.owner),
    }
}

fn endpoint(flow: &FlowSample, address: IpAddr, port: u16) -> String {
    match flow.ip_protocol {
        None => String::new(),
        Some(_) if port == 0 => address.to_string(),
        Some(_) => SocketAddr::new(address, port).to_string(),
    }
}

fn protocol(ip_protocol: Option<u8>) -> String {
    match ip_protocol {
        None => "other".to_owned(),
        Some(1) => "icmp".to_owned(),
        Some(6) => "tcp".to_owned(),
        Some(17) => "udp".to_owned(),
        Some(58) => "icmp6".to_owned(),
        Some(number) => number.to_string(),
    }
}

fn owner(owner: &Owner) -> OwnerView {
    match owner {
        Owner::Process { pid, name, application } => OwnerView {
            pids: vec![*pid],
            process: Some(name.clone()),
            application: application.clone(),
            reason: None,
        },
        Owner::Application { name, pids } => {
            OwnerView { pids: pids.clone(), application: Some(name.clone()), ..OwnerView::default() }
        }
        Owner::Shared { pids } => OwnerView { pids: pids.clone(), ..OwnerView::default() },
        Owner::Nobody(reason) => OwnerView { reason: Some((*reason).to_owned()), ..OwnerView::default() },
    }
}

pub(super) const fn rate(rate: TrafficRate) -> RateView {
    RateView { sent_bytes_per_s: rate.sent_bytes_per_s, received_bytes_per_s: rate.received_bytes_per_s }
}

fn millis(ms: u64) -> f64 {
    seconds(std::time::Duration::from_millis(ms))
}
