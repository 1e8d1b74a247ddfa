"""Generate the AsyncAPI documents ``docs/asyncapi/*.json`` from the contracts: client events and bus messages."""
