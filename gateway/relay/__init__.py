"""Mail on its way: a lane per profile, fair between tenants, within the relay's limits, parked when something is wrong."""
