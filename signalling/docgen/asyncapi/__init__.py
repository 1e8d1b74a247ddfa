"""The AsyncAPI documents ``docs/asyncapi/*.json``, made of the contracts: what clients see, what is on the bus."""
