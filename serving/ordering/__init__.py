"""What a page is worth and how its videos go together: functions of what models said.

Source: Covington et al., RecSys 2016, section 4.
"""
