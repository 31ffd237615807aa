// Streams, events and graphs of the stand-in. Work is done once it is asked for, so that nothing has to wait;
// what is not allowed while a graph is captured is refused, as CUDA does:
//
// - an allocation, and what waits for a stream, an event or the device, by a thread that may not;
// - a capturing stream that waits for an event of another capture or of none;
// - the end of a capture before its origin has waited for the work of all streams that have joined it;
//
// and, unlike CUDA, work of the capturing thread on another stream: the graph would lack it.
//
// Streams and events belong to the device that was current when they were created.

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <utility>

#include "stand_in.h"

namespace {

using stand_in::fail;

using Id = unsigned long long;                 // of a capture; 0: none
using Seen = std::map<cudaStream_t, int64_t>;  // of each stream the last work that comes before

struct Stream {
  Id capture = 0;
  Seen seen;
};
struct Event {
  int device = stand_in::use_device();
  int64_t nanoseconds = 0;
  Id capture = 0;
  Seen seen;
};
struct Capture {
  cudaStream_t origin;
  cudaStreamCaptureMode mode;
  std::thread::id thread;
  std::set<cudaStream_t> streams;
  bool broken;
  size_t works;
};

std::recursive_mutex mutex;
using Lock = std::lock_guard<std::recursive_mutex>;
std::map<cudaStream_t, Stream> streams;
std::map<Id, Capture> captures;
Id last_id = 0;
int64_t works = 0;
thread_local cudaStreamCaptureMode thread_mode = cudaStreamCaptureModeGlobal;

Event& event_of(cudaEvent_t event) { return *reinterpret_cast<Event*>(event); }
Id capture_of(cudaEvent_t event) {
  const Id id = event_of(event).capture;
  return captures.count(id) ? id : 0;
}

// Ends a capture by an error.
cudaError_t refuse(Id capture, cudaError_t error, const std::string& what) {
  const auto found = captures.find(capture);
  if (found != captures.end()) found->second.broken = true;
  return fail(error, what + " during the capture of a graph");
}

cudaError_t wait_for_stream(cudaStream_t stream) {
  const Lock lock(mutex);
  const Id capture = streams[stream].capture;
  return capture ? refuse(capture, cudaErrorStreamCaptureUnsupported, "the host waits for a stream")
                 : cudaSuccess;
}
cudaError_t wait_for_event(cudaEvent_t event) {
  const Lock lock(mutex);
  const Id capture = capture_of(event);
  if (!capture) return stand_in::check_no_capture("the host waits for an event");
  return refuse(capture, cudaErrorCapturedEvent, "the host waits for an event of it");
}

cudaError_t record(cudaEvent_t event, cudaStream_t stream) {
  const Lock lock(mutex);
  const Stream& own = streams[stream];
  const int device = event_of(event).device;
  if (device != stand_in::device_of(stream)) {
    return fail(cudaErrorInvalidResourceHandle, "an event is recorded on a stream of another device");
  }
  event_of(event) = {device, stand_in::now(), own.capture, own.seen};
  return cudaSuccess;
}

cudaError_t let_wait(cudaStream_t stream, cudaEvent_t event) {
  const Lock lock(mutex);
  Stream& own = streams[stream];
  const Id capture = capture_of(event);
  if (!capture && !own.capture) return cudaSuccess;
  if (!capture) {
    return refuse(own.capture, cudaErrorStreamCaptureIsolation, "a captured stream waits for others' work");
  }
  if (!stream)
    return refuse(capture, cudaErrorStreamCaptureImplicit, "the default stream waits for work of it");
  if (!own.capture) own = {capture, {}};
  if (own.capture != capture) {
    return refuse(own.capture, cudaErrorStreamCaptureMerge, "a captured stream waits for another capture");
  }
  captures.at(capture).streams.insert(stream);
  for (const auto& [from, work] : event_of(event).seen) own.seen[from] = std::max(own.seen[from], work);
  return cudaSuccess;
}

cudaError_t begin(cudaStream_t stream, cudaStreamCaptureMode mode) {
  const Lock lock(mutex);
  if (!stream) return fail(cudaErrorStreamCaptureUnsupported, "the default stream cannot be captured");
  if (streams[stream].capture) return fail(cudaErrorIllegalState, "the stream is being captured");
  streams[stream] = {++last_id, {}};
  captures[last_id] = {stream, mode, std::this_thread::get_id(), {stream}, false, 0};
  return cudaSuccess;
}

cudaError_t end(cudaStream_t stream, cudaGraph_t* graph) {
  const Lock lock(mutex);
  *graph = nullptr;
  Stream origin = streams[stream];
  if (!origin.capture) return fail(cudaErrorIllegalState, "the stream is not being captured");
  const Capture capture = captures.at(origin.capture);
  if (capture.origin != stream) {
    return refuse(origin.capture, cudaErrorStreamCaptureUnmatched, "an end on another stream");
  }
  const auto is_joined = [&](cudaStream_t other) { return origin.seen[other] >= streams[other].seen[other]; };
  const bool joined = std::all_of(capture.streams.begin(), capture.streams.end(), is_joined);
  for (cudaStream_t other : capture.streams) streams[other] = {};
  captures.erase(origin.capture);
  if (capture.broken) return fail(cudaErrorStreamCaptureInvalidated, "the capture has failed before");
  if (!joined) return fail(cudaErrorStreamCaptureUnjoined, "work that the captured stream does not wait for");
  *graph = reinterpret_cast<cudaGraph_t>(new size_t(capture.works));
  return cudaSuccess;
}

cudaStreamCaptureStatus status_of(cudaStream_t stream, Id* id) {
  const Lock lock(mutex);
  const auto found = captures.find(streams[stream].capture);
  if (id) *id = found == captures.end() ? 0 : found->first;
  if (found == captures.end()) return cudaStreamCaptureStatusNone;
  return found->second.broken ? cudaStreamCaptureStatusInvalidated : cudaStreamCaptureStatusActive;
}

cudaError_t measure_time(float* milliseconds, cudaEvent_t start, cudaEvent_t end) {
  if (event_of(start).device != event_of(end).device) {
    return fail(cudaErrorInvalidResourceHandle, "the time between events of two devices");
  }
  *milliseconds = static_cast<float>(event_of(end).nanoseconds - event_of(start).nanoseconds) / 1e6f;
  return cudaSuccess;
}

// Its device, as stand_in::device_of() takes it.
cudaStream_t new_stream() { return reinterpret_cast<cudaStream_t>(new int(stand_in::use_device())); }

template <typename Handle, typename T = int64_t>
Handle new_handle() {
  return reinterpret_cast<Handle>(new T());
}

}  // namespace

namespace stand_in {

cudaError_t check_no_capture(const char* what) {
  const Lock lock(mutex);
  if (thread_mode == cudaStreamCaptureModeRelaxed) return cudaSuccess;
  for (const auto& [id, capture] : captures) {
    const bool own = capture.thread == std::this_thread::get_id();
    const bool of_all =
        capture.mode == cudaStreamCaptureModeGlobal && thread_mode == cudaStreamCaptureModeGlobal;
    if (capture.mode != cudaStreamCaptureModeRelaxed && (own || of_all)) {
      return refuse(id, cudaErrorStreamCaptureUnsupported, what);
    }
  }
  return cudaSuccess;
}

cudaError_t add_work(cudaStream_t stream, const char* what) {
  const Lock lock(mutex);
  if (captures.empty()) return cudaSuccess;
  Stream& own = streams[stream];
  if (own.capture) {
    Capture& capture = captures.at(own.capture);
    if (capture.broken) return fail(cudaErrorStreamCaptureInvalidated, "the capture has failed before");
    ++capture.works;
    own.seen[stream] = ++works;
    return cudaSuccess;
  }
  for (const auto& [id, capture] : captures) {
    if (capture.thread != std::this_thread::get_id()) continue;
    return refuse(id, cudaErrorStreamCaptureImplicit,
                  std::string(what) + " on a stream that is not captured");
  }
  return cudaSuccess;
}

}  // namespace stand_in

extern "C" {

DO(cudaStreamCreate, (cudaStream_t * stream), *stream = new_stream())
DO(cudaStreamCreateWithFlags, (cudaStream_t * stream, unsigned), *stream = new_stream())
DO(cudaStreamCreateWithPriority, (cudaStream_t * stream, unsigned, int), *stream = new_stream())
TRY(cudaStreamQuery, (cudaStream_t stream), wait_for_stream(stream))
TRY(cudaStreamSynchronize, (cudaStream_t stream), wait_for_stream(stream))
TRY(cudaDeviceSynchronize, (), stand_in::check_no_capture("the host waits for the device"))
TRY(cudaStreamWaitEvent, (cudaStream_t stream, cudaEvent_t event, unsigned), let_wait(stream, event))

// Events know when they were recorded.
DO(cudaEventCreate, (cudaEvent_t * event), *event = new_handle<cudaEvent_t, Event>())
DO(cudaEventCreateWithFlags, (cudaEvent_t * event, unsigned), *event = new_handle<cudaEvent_t, Event>())
DO(cudaEventDestroy, (cudaEvent_t event), delete &event_of(event))
TRY(cudaEventRecord, (cudaEvent_t event, cudaStream_t stream), record(event, stream))
TRY(cudaEventRecordWithFlags, (cudaEvent_t event, cudaStream_t stream, unsigned), record(event, stream))
TRY(cudaEventQuery, (cudaEvent_t event), wait_for_event(event))
TRY(cudaEventSynchronize, (cudaEvent_t event), wait_for_event(event))
TRY(cudaEventElapsedTime, (float* milliseconds, cudaEvent_t start, cudaEvent_t end),
    measure_time(milliseconds, start, end))

DO(cudaThreadExchangeStreamCaptureMode, (cudaStreamCaptureMode * mode), std::swap(*mode, thread_mode))
TRY(cudaStreamBeginCapture, (cudaStream_t stream, cudaStreamCaptureMode mode), begin(stream, mode))
TRY(cudaStreamEndCapture, (cudaStream_t stream, cudaGraph_t* graph), end(stream, graph))
DO(cudaStreamIsCapturing, (cudaStream_t stream, cudaStreamCaptureStatus* status),
   *status = status_of(stream, nullptr))
DO(cudaStreamGetCaptureInfo,
   (cudaStream_t stream, cudaStreamCaptureStatus* status, Id* id, cudaGraph_t*, const cudaGraphNode_t**,
    const cudaGraphEdgeData**, size_t*),
   *status = status_of(stream, id))

// Of a graph only the number of its nodes is known.
DO(cudaGraphGetNodes, (cudaGraph_t graph, cudaGraphNode_t*, size_t* count),
   *count = *reinterpret_cast<size_t*>(graph))
DO(cudaGraphDestroy, (cudaGraph_t graph), delete reinterpret_cast<size_t*>(graph))
DO(cudaGraphInstantiate, (cudaGraphExec_t * executable, cudaGraph_t, unsigned long long),
   *executable = new_handle<cudaGraphExec_t>())
DO(cudaGraphInstantiateWithFlags, (cudaGraphExec_t * executable, cudaGraph_t, unsigned long long),
   *executable = new_handle<cudaGraphExec_t>())

}  // extern "C"
