// Media of a browser: real peer connections, and the camera and microphone that there are.

export const media = {
  open: (callType) => navigator.mediaDevices.getUserMedia({ audio: true, video: callType === "video" }),
  connection: () => new RTCPeerConnection({ iceServers: [] }),
  description: (description) => new RTCSessionDescription(description),
  candidate: (candidate) => new RTCIceCandidate(candidate),

  gathered: (pc) =>
    pc.iceGatheringState === "complete" ||
    new Promise((resolve) => {
      pc.onicegatheringstatechange = () => pc.iceGatheringState === "complete" && resolve();
    }),

  plays(stream) {
    // One element: a muted one plays by itself only where it can be seen.
    if (video === undefined) {
      video = Object.assign(document.createElement("video"), { autoplay: true, playsInline: true, muted: true });
      document.body.append(video);
    }
    if (video.srcObject !== stream) {
      video.srcObject = stream;
      return false;
    }
    return video.getVideoPlaybackQuality().totalVideoFrames > 5 && !video.paused;
  },
};

let video;
