"""Other programs (git, children, the warm interpreter): how they are started, what their failures say."""
