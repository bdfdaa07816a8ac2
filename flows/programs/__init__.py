"""Other programs: how they are started, and what their failures say."""
