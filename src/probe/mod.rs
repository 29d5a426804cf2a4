//! RTP-aware multicast sender and receiver.
