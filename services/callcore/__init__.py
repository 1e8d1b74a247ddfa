"""Call control: what each call may do, and where its offers, answers and candidates go."""
