"""The call state machine: records, inputs, transition table, actions. No I/O, no clock."""
