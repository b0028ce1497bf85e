import bench.dataplane.nat as n
from arcbox_net import PacketPool
import time, os
os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
t=time.time()
with PacketPool(2*n.FRAMES,1,touch=True) as pool:
    for flows,frames,target in n.CASES:
        e=n.Established(pool,flows,frames,256,n.uniform); print(flows, e.measure(), time.time()-t, flush=True); del e
    print(n.new_flows(pool,n.ENDPOINTS), time.time()-t, flush=True)
    print(n.new_flows(pool,40000), time.time()-t, flush=True)
    print(n.expiry(pool,1_000_000), time.time()-t, flush=True)
    print(n.calls(pool), time.time()-t, flush=True)
