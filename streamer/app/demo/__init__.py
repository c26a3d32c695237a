"""What both demos share: real servers, worker processes, a subscriber, and the screen."""
