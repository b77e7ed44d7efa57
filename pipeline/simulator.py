"""draft"""
import time as t
import numpy as np
from pipeline import site_calibration, site_world, site_visits, site_config, site_events

def run(config):
    t0=t.time()
    world = site_calibration.calibrated(site_world.build(config))
    print('build', t.time()-t0)
    v = site_visits.Visits(world, np.arange(config.users))
    tabs = site_events.Tables(world)
    out=[]
    for day in range(config.days):
        t1=t.time()
        n0=v.log.num_events
        for h in range(24):
            v.run_hour(config.start_s+day*86400+h*3600)
        t2=t.time()
        cols=v.log.take()
        tb={k: tabs.events(k,c) for k,c in cols.items()}
        print(day, v.log.num_events-n0, f'{t2-t1:.2f} {t.time()-t2:.2f}', site_events.table_counts(cols))
        out.append((cols,tb))
    print('total', v.log.num_events, t.time()-t0, 'per s', v.log.num_events/(t.time()-t0))
    return world, v, tabs, out
